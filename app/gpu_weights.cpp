#include "gpu_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>

#include "model/cuda_weights.h"
#include "thermoe/error.h"
#include "thermoe/nested_view.h"

namespace thermoe::app {
namespace {

using cuda::ExpertForm;

constexpr size_t kRunBytes = size_t{8} << 20;
constexpr int64_t kPieceBytes = 512;          // each piece begins at a multiple
constexpr float kGpuWeightDeviation = 0.02f;  // initializer_range of the published configurations
constexpr float kNestedBase = 1e-4f, kNestedRatio = 12;  // the ratio that thermoe quantize writes

int64_t whole_pieces(int64_t bytes) {
  return (bytes + kPieceBytes - 1) / kPieceBytes * kPieceBytes;
}

// Bytes of one of a weight's planes (of bf16: half of it), and of its scales.
struct PlaneBytes {
  int64_t plane = 0, scales = 0;
  int planes = 2;
};

PlaneBytes plane_bytes(int64_t weights, ExpertForm form) {
  if (form == ExpertForm::kBf16) return {weights, 0, 2};
  const int64_t blocks = weights / (NestedView::kBlock * NestedView::kBlock);
  return {whole_pieces(blocks * NestedView::kPlaneBlockBytes),
          whole_pieces(blocks * NestedView::kScaleBlockBytes), form == ExpertForm::kInt8 ? 2 : 1};
}

int64_t weight_bytes(int64_t weights, ExpertForm form) {
  const PlaneBytes bytes = plane_bytes(weights, form);
  return bytes.planes * bytes.plane + bytes.scales;
}

cuda::DeviceWeight weight_at(const std::byte* data, int64_t weights, ExpertForm form) {
  const PlaneBytes bytes = plane_bytes(weights, form);
  const auto* from = reinterpret_cast<const uint8_t*>(data);
  cuda::DeviceWeight weight;
  weight.data = from;
  if (bytes.planes == 2) weight.lo = from + bytes.plane;
  if (form == ExpertForm::kBf16) return weight;
  weight.scales = from + bytes.planes * bytes.plane;
  weight.base = kNestedBase;
  weight.plane_ratio = kNestedRatio;
  return weight;
}

cuda::DeviceExpert expert_at(const std::byte* data, const cost::KernelShape& shape,
                             ExpertForm form) {
  const int64_t matrix = shape.hidden_size * shape.inter_size;
  cuda::DeviceExpert expert;
  expert.form = form;
  expert.gate_up = weight_at(data, 2 * matrix, form);
  expert.down = weight_at(data + weight_bytes(2 * matrix, form), matrix, form);
  return expert;
}

std::vector<uint8_t> random_run() {
  std::mt19937_64 random(1);
  std::vector<uint8_t> bytes(kRunBytes);
  for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
    const uint64_t word = random();
    std::memcpy(&bytes[at], &word, sizeof(word));
  }
  return bytes;
}

}  // namespace

std::vector<uint8_t> random_bf16(size_t count, float deviation) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<uint8_t> bytes(2 * count);
  for (size_t i = 0; i < count; ++i) {
    const auto half = static_cast<uint16_t>(std::bit_cast<uint32_t>(normal(random)) >> 16);
    std::memcpy(&bytes[2 * i], &half, sizeof(half));
  }
  return bytes;
}

ExpertForm expert_form(const std::string& dtype) {
  if (dtype == "bf16") return ExpertForm::kBf16;
  if (dtype == "int8") return ExpertForm::kInt8;
  if (dtype == "int4") return ExpertForm::kInt4;
  if (dtype == "fp8") return ExpertForm::kFp8;
  throw InvalidArgument(
      fmt::format("type \"{}\": the CUDA kernels have bf16, int8, int4 and fp8", dtype));
}

int64_t expert_bytes(const cost::KernelShape& shape, ExpertForm form) {
  if (form == ExpertForm::kFp8) return fp8_expert_bytes(shape.hidden_size, shape.inter_size);
  const int64_t matrix = shape.hidden_size * shape.inter_size;
  return weight_bytes(2 * matrix, form) + weight_bytes(matrix, form);
}

void RandomBlock::grow(size_t bytes, const std::vector<uint8_t>& run) {
  if (memory_.bytes() >= bytes) return;
  memory_ = cuda::DeviceBytes();  // before the larger one is taken
  memory_ = cuda::DeviceBytes(std::max(bytes, run.size()));
  memory_.upload(run.data(), run.size());
  for (size_t done = run.size(); done < memory_.bytes();) {
    const size_t more = std::min(done, memory_.bytes() - done);
    cuda::check(cudaMemcpy(memory_.data() + done, memory_.data(), more, cudaMemcpyDeviceToDevice),
                "repeating random values");
    done += more;
  }
  cuda::check(cudaDeviceSynchronize(), "repeating random values");
}

void GpuWeights::divide(const cost::KernelShape& shape, ExpertForm form, int64_t least_bytes) {
  const int64_t one = expert_bytes(shape, form), layer = one * shape.experts;
  const int64_t layers = std::max<int64_t>((least_bytes + layer - 1) / layer, 1);
  positions_ = layers * shape.experts;
  std::vector<cuda::DeviceExpert> table =
      form == ExpertForm::kFp8 ? packed_fp8(shape) : placed(shape, form);
  for (int64_t i = 0; i < shape.experts; ++i) table.push_back(table[static_cast<size_t>(i)]);
  table_ = cuda::DeviceArray<cuda::DeviceExpert>(table);
}

std::vector<cuda::DeviceExpert> GpuWeights::placed(const cost::KernelShape& shape,
                                                   ExpertForm form) {
  const bool bf16 = form == ExpertForm::kBf16;
  RandomBlock& block = bf16 ? bf16_ : nested_;
  const int64_t one = expert_bytes(shape, form);
  const auto bytes = static_cast<size_t>(one * positions_);
  if (bf16)
    grow_bf16(bytes);
  else if (block.bytes() < bytes)
    block.grow(bytes, random_run());
  std::vector<cuda::DeviceExpert> table;
  for (int64_t i = 0; i < positions_; ++i)
    table.push_back(expert_at(block.data() + i * one, shape, form));
  return table;
}

std::vector<cuda::DeviceExpert> GpuWeights::packed_fp8(const cost::KernelShape& shape) {
  constexpr int64_t kSources = 64, kApart = 1024;  // values between where experts are packed from
  const int64_t matrix = shape.hidden_size * shape.inter_size;
  grow_bf16(static_cast<size_t>(2 * (3 * matrix + kSources * kApart)));
  const int64_t one = expert_bytes(shape, ExpertForm::kFp8);
  const auto bytes = static_cast<size_t>(one * positions_);
  if (fp8_.bytes() < bytes) {
    fp8_ = cuda::DeviceBytes();  // before the larger one is taken
    fp8_ = cuda::DeviceBytes(bytes);
  }
  std::vector<cuda::DeviceExpert> table;
  for (int64_t i = 0; i < positions_; ++i) {
    const auto* from = reinterpret_cast<const __nv_bfloat16*>(bf16_.data()) + i % kSources * kApart;
    table.push_back(pack_fp8_expert(
        from, from + matrix, from + 2 * matrix, static_cast<int>(shape.hidden_size),
        static_cast<int>(shape.inter_size), reinterpret_cast<uint8_t*>(fp8_.data() + i * one)));
  }
  cuda::check(cudaDeviceSynchronize(), "packing experts in fp8");
  return table;
}

void GpuWeights::grow_bf16(size_t bytes) {
  if (bf16_.bytes() < bytes) bf16_.grow(bytes, random_bf16(kRunBytes / 2, kGpuWeightDeviation));
}

}  // namespace thermoe::app
