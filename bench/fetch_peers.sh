#!/usr/bin/env bash
# bench/fetch_peers.sh [--native] [DIR] : fills DIR (.peers) with what bench/gpu_peers.py takes from vLLM's wheel: the Triton
# kernels of its fused MoE, with their launch code, and the configurations tuned for our shapes on H100 and H200 (a few
# 100 KB). --native: its compiled MoE operations too (Marlin, moe_align_block_size; 45 MB). Downloads 280 MB.
set -euo pipefail
version=0.24.0 # the one that asks for PyTorch 2.11.0, hence Triton 3.6.0
native=
if [[ ${1:-} == --native ]]; then
  native=1
  shift
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
peers=${1:-.peers}
mkdir -p "$peers"
peers=$(cd "$peers" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
  --dest "$work" "vllm==$version"
folder=vllm/model_executor/layers/fused_moe
cd "$work"
# shellcheck disable=SC2035
unzip -qo *.whl "$folder/fused_moe.py" "$folder/configs/*" 'vllm/_moe_C*' '*.dist-info/licenses/*'
mkdir -p "$peers/configs"
cp "$folder/fused_moe.py" vllm-*.dist-info/licenses/LICENSE "$peers/"
for experts_and_width in E=128,N=768 E=64,N=1024 E=8,N=14336 E=128,N=2880; do
  for device in NVIDIA_H100_80GB_HBM3 NVIDIA_H200; do
    config="$folder/configs/$experts_and_width,device_name=$device.json"
    if [[ -f $config ]]; then cp "$config" "$peers/configs/"; fi
  done
done
if [[ $native ]]; then cp vllm/_moe_C*.so "$peers/"; fi
echo "$version" >"$peers/version"
du -sh "$peers"
