#!/usr/bin/env python3
"""Golden models: small random configurations of each family, with transformers' logits.

    make_models.py [DIR]          write them to DIR (default: the committed ones, tests/golden/models)
    make_models.py --check [DIR]  make them afresh and compare with DIR; exit status 1 where they differ

Each model is a directory as save_pretrained writes it, and beside the weights

    tokens.json          {"sequences": [[id, ...], ...]}
    logits.safetensors   "logits.<i>" f32 [tokens of sequence i, vocabulary]: transformers, eager attention,
                         f32 arithmetic on the weights as stored

Needs torch, transformers, safetensors and numpy. Everything is seeded.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import zlib

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SEQUENCE_LENGTHS = (12, 9)
# Router logits of the k-th and the next expert must differ by more than rounding can move them.
MIN_ROUTER_MARGIN = 2e-3
LOGIT_RANGE = (1.0, 30.0)  # largest |logit| of a model: what 1e-4 absolute is measured against

COMMON = dict(vocab_size=61, hidden_size=48, max_position_embeddings=128, initializer_range=0.2, bos_token_id=0)

# name -> (model class, configuration, how it is stored)
MODELS = {
    "qwen3-tied": (
        Qwen3MoeForCausalLM,
        # Heads wider than hidden_size / heads, as in Qwen3-30B-A3B.
        Qwen3MoeConfig(**COMMON, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=20,
                       intermediate_size=40, moe_intermediate_size=18, num_experts=5, num_experts_per_tok=2,
                       norm_topk_prob=True, tie_word_embeddings=True, eos_token_id=[1, 2]),
        dict(dtype=torch.float32, max_shard_size="80KB"),
    ),
    "qwen3-dense-layers": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(**COMMON, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
                       intermediate_size=40, moe_intermediate_size=20, num_experts=6, num_experts_per_tok=3,
                       norm_topk_prob=False, attention_bias=True, mlp_only_layers=[0, 2], tie_word_embeddings=False,
                       rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, eos_token_id=1),
        dict(dtype=torch.bfloat16, older=True),
    ),
    "qwen3-sparse-step": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(**COMMON, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=3, head_dim=8,
                       intermediate_size=32, moe_intermediate_size=16, num_experts=8, num_experts_per_tok=4,
                       norm_topk_prob=True, decoder_sparse_step=2, eos_token_id=1),
        dict(dtype=torch.float16),
    ),
    "olmoe": (
        OlmoeForCausalLM,
        OlmoeConfig(**COMMON, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, num_experts=7,
                    num_experts_per_tok=3, norm_topk_prob=False, eos_token_id=1),
        dict(dtype=torch.float32, max_shard_size="100KB", older=True),
    ),
    "olmoe-clip": (
        OlmoeForCausalLM,
        OlmoeConfig(**COMMON, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=20,
                    num_experts=5, num_experts_per_tok=2, norm_topk_prob=True, clip_qkv=1.0, attention_bias=True,
                    rope_parameters={"rope_type": "default", "rope_theta": 500.0}, eos_token_id=1),
        dict(dtype=torch.float32),
    ),
    "mixtral": (
        MixtralForCausalLM,
        MixtralConfig(**COMMON, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                      intermediate_size=22, num_local_experts=5, num_experts_per_tok=2, eos_token_id=1),
        dict(dtype=torch.float32, older=True),
    ),
    "mixtral-tied": (
        MixtralForCausalLM,
        MixtralConfig(**COMMON, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3, head_dim=16,
                      intermediate_size=24, num_local_experts=4, num_experts_per_tok=3, tie_word_embeddings=True,
                      rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, eos_token_id=1),
        dict(dtype=torch.bfloat16, max_shard_size="60KB"),
    ),
}


def rng_for(*parts):
    return np.random.default_rng([zlib.crc32(str(p).encode()) for p in parts])


def randomise(model, name):
    """Every parameter from its own name; norms and biases too, so that each one is seen in the logits."""
    for key, parameter in sorted(model.named_parameters()):
        values = rng_for(name, key).standard_normal(tuple(parameter.shape))
        if "norm" in key:
            values = 1.0 + 0.25 * values
        elif key.endswith("bias"):
            values = 0.3 * values
        elif "embed_tokens" in key:
            values = 0.5 * values
        elif key.endswith("mlp.gate.weight"):
            values = 0.3 * values
        else:
            values = 0.2 * values
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))


def spell_older(directory):
    """config.json as transformers 4 wrote it, which most published checkpoints have."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    if config["model_type"] != "mixtral" and "num_local_experts" in config:
        config["num_experts"] = config.pop("num_local_experts")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def reference_logits(directory, sequences):
    """[tokens, vocabulary] f32 of each sequence, after checks that the model tests what it should."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    model.eval()
    k = model.config.num_experts_per_tok
    out = []
    for tokens in sequences:
        with torch.no_grad():
            result = model(torch.tensor([tokens]), output_router_logits=True)
        for layer in result.router_logits:
            ranked = layer.float().sort(dim=-1, descending=True).values
            margin = (ranked[:, k - 1] - ranked[:, k]).min().item()
            if margin < MIN_ROUTER_MARGIN:
                raise SystemExit(f"{directory.name}: router margin {margin:.1e}: change a seed")
        logits = result.logits[0].contiguous()
        if not LOGIT_RANGE[0] < logits.abs().max() < LOGIT_RANGE[1]:
            raise SystemExit(f"{directory.name}: logits reach {logits.abs().max():.3f}: change the scales")
        out.append(logits)
    return out


def make(name, out):
    model_class, config, store = MODELS[name]
    torch.manual_seed(0)
    model = model_class(config)
    randomise(model, name)
    directory = out / name
    model.to(store["dtype"]).save_pretrained(directory, max_shard_size=store.get("max_shard_size", "1GB"))
    if store.get("older"):
        spell_older(directory)
    sequences = [rng_for(name, "tokens", i).integers(0, config.vocab_size, n).tolist()
                 for i, n in enumerate(SEQUENCE_LENGTHS)]
    logits = reference_logits(directory, sequences)
    (directory / "tokens.json").write_text(json.dumps({"sequences": sequences}) + "\n")
    save_file({f"logits.{i}": x for i, x in enumerate(logits)}, directory / "logits.safetensors")


def same_json(a, b):
    a, b = (json.loads(p.read_text()) for p in (a, b))
    for value in (a, b):  # differs from one release to the next
        value.pop("transformers_version", None)
    return a == b


def same_tensors(a, b, tolerance):
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape
        and (a[k].float() - b[k].float()).abs().max().item() <= tolerance for k in a)


def differences(fresh, committed):
    """Files that are missing, left over or different."""
    names = {p.relative_to(d) for d in (fresh, committed) for p in d.rglob("*") if p.is_file()}
    for name in sorted(names):
        a, b = fresh / name, committed / name
        if not a.exists() or not b.exists():
            yield f"{name}: only {'committed' if b.exists() else 'made afresh'}"
        elif name.suffix == ".json" and not same_json(a, b):
            yield f"{name}: differs"
        # Weights are seeded and exact; logits vary with the machine's order of summation.
        elif name.suffix == ".safetensors" and not same_tensors(a, b, 2e-5 if name.stem == "logits" else 0.0):
            yield f"{name}: differs"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare DIR with models made afresh")
    committed = pathlib.Path(__file__).resolve().parent / "models"
    parser.add_argument("directory", type=pathlib.Path, nargs="?", default=committed)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.check:
        for name in MODELS:
            make(name, arguments.directory)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        for name in MODELS:
            make(name, pathlib.Path(temporary))
        found = list(differences(pathlib.Path(temporary), arguments.directory))
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(MODELS)} golden models: " + (f"{len(found)} files differ" if found else "as committed"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
