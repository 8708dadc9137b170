#include "gpu_work.h"

#include <cuda_bf16.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <random>
#include <vector>

#include "cost/moe_load.h"
#include "cpu_work.h"
#include "gpu_weights.h"
#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/decode_experts.h"
#include "kernels/cuda/devices.h"
#include "kernels/cuda/prefill_experts.h"
#include "model/cuda_expert_runner.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

using cuda::DecodeExpertsArguments;

constexpr int kDraws = 4;  // of a skewed load: their mean is within an eighth of an expert of all's
constexpr int kLeastLaunches = 4, kMostLaunches = 2048;  // of a graph; multiples of kDraws
constexpr double kLeastGraphUs = 600;  // so that starting a graph is below a percent of it
constexpr double kGuessedBytesPerUs = 3e6, kGuessedStartUs = 10;  // an H100's, to count launches by
constexpr int kCachesBetween = 3;  // times the L2 cache is read before a weight is read again
constexpr double kMostMemoryFrac = 0.85;

int attribute(cudaDeviceAttr which) {
  int value = 0;
  cuda::check(cudaDeviceGetAttribute(&value, which, 0), "reading the GPU's attributes");
  return value;
}

std::string uuid_of(const cudaDeviceProp& properties) {
  std::string text = "GPU";
  for (size_t i = 0; i < sizeof(properties.uuid.bytes); ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(properties.uuid.bytes[i]));
  }
  return text;
}

// Nominal: a bus transfers twice a clock; a multiprocessor's tensor cores do 2,048 FLOP a clock in
// bf16, from Hopper on 4,096.
MeasuredPeaks nominal_peaks() {
  constexpr double kHzPerKhz = 1e3;
  MeasuredPeaks peaks;
  peaks.memory_bytes_per_s = 2 * kHzPerKhz * attribute(cudaDevAttrMemoryClockRate) *
                             attribute(cudaDevAttrGlobalMemoryBusWidth) / 8;
  const double flops_per_clock = attribute(cudaDevAttrComputeCapabilityMajor) >= 9 ? 4096 : 2048;
  peaks.bf16_flops_per_s = flops_per_clock * attribute(cudaDevAttrMultiProcessorCount) * kHzPerKhz *
                           attribute(cudaDevAttrClockRate);
  return peaks;
}

GpuFacts facts_of_first() {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, 0), "reading the GPU's properties");
  int version = 0;
  cuda::check(cudaRuntimeGetVersion(&version), "reading CUDA's version");
  GpuFacts facts;
  facts.name = properties.name;
  facts.uuid = uuid_of(properties);
  facts.cuda_version = fmt::format("{}.{}", version / 1000, version % 1000 / 10);
  facts.peaks = nominal_peaks();
  return facts;
}

ExpertKernel kernel_of(const SweepPoint& point) {
  if (point.kernel.empty()) return ExpertKernel::kCudaDecode;
  if (const std::optional<ExpertKernel> kernel = expert_kernel_of(point.kernel)) return *kernel;
  std::string known;
  for (const ExpertKernel kernel : kAllExpertKernels)
    known += fmt::format("{}{}", known.empty() ? "" : ", ", name_of(kernel));
  throw InvalidArgument(fmt::format("kernel \"{}\": there are {}", point.kernel, known));
}

ExpertForms forms_of(const SweepPoint& point) {
  ExpertForms forms;
  forms.add(expert_form(point.dtype));
  return forms;
}

// A graph of launches, replayed between two events.
class Replay {
 public:
  Replay() {
    cuda::check(cudaEventCreate(&begin_), "making an event");
    cuda::check(cudaEventCreate(&end_), "making an event");
  }
  ~Replay() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  cudaStream_t stream() const { return stream_.get(); }

  // Launches once outside of the capture, in which no kernel can be loaded.
  void capture(int launches, const std::function<void(int)>& launch) {
    launch(0);
    cuda::check(cudaStreamSynchronize(stream()), "running a kernel");
    graph_.capture(stream(), [&] {
      for (int i = 0; i < launches; ++i) launch(i);
    });
    launches_ = launches;
  }

  double us(int replays) {
    cuda::check(cudaEventRecord(begin_, stream()), "timing");
    for (int i = 0; i < replays; ++i) graph_.launch(stream());
    cuda::check(cudaEventRecord(end_, stream()), "timing");
    cuda::check(cudaEventSynchronize(end_), "waiting for the GPU");
    float ms = 0;
    cuda::check(cudaEventElapsedTime(&ms, begin_, end_), "timing");
    return 1e3 * static_cast<double>(ms) / (static_cast<double>(replays) * launches_);
  }

 private:
  cuda::Stream stream_;
  cuda::Graph graph_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  int launches_ = 1;
};

// The used experts first, in an order that has nothing to do with their loads.
std::vector<int64_t> used_first(std::vector<int64_t> counts) {
  std::mt19937 random(1);
  const auto unused =
      std::stable_partition(counts.begin(), counts.end(), [](int64_t count) { return count > 0; });
  for (auto n = unused - counts.begin(); n > 1; --n)
    std::swap(counts[static_cast<size_t>(n - 1)], counts[random() % static_cast<uint32_t>(n)]);
  return counts;
}

// Plans in one piece of device memory, which is kept.
class DevicePlans {
 public:
  struct Plan {
    size_t instances = 0, weights = 0, offsets = 0, packed = 0;  // where each begins
    int64_t distinct = 0;
  };

  void set(const SweepPoint& point) {
    const cost::KernelShape& s = point.shape;
    plans_.clear();
    words_.clear();
    for (const std::vector<int64_t>& load :
         cost::representative_loads(point.tokens, s.experts, s.top_k, s.load_exponent, kDraws)) {
      const RoutingPlan plan = plan_with_counts(used_first(load), point.tokens, s.top_k);
      std::vector<int32_t> weights;
      weights.reserve(plan.weights.size());
      for (const float weight : plan.weights) weights.push_back(std::bit_cast<int32_t>(weight));
      plans_.push_back({add(plan.instances), add(weights), add(plan.offsets), add(plan.packed),
                        std::count_if(load.begin(), load.end(), [](auto n) { return n > 0; })});
    }
    if (memory_.bytes() < 4 * words_.size()) memory_ = cuda::DeviceBytes(4 * words_.size());
    memory_.upload(words_.data(), 4 * words_.size());
  }

  const std::vector<Plan>& plans() const { return plans_; }
  const int32_t* at(size_t word) const {
    return reinterpret_cast<const int32_t*>(memory_.data()) + word;
  }
  double mean_distinct() const {
    double sum = 0;
    for (const Plan& plan : plans_) sum += static_cast<double>(plan.distinct);
    return sum / static_cast<double>(plans_.size());
  }

 private:
  size_t add(const std::vector<int32_t>& values) {
    const size_t begin = words_.size();
    words_.insert(words_.end(), values.begin(), values.end());
    return begin;
  }

  std::vector<Plan> plans_;
  std::vector<int32_t> words_;
  cuda::DeviceBytes memory_;
};

class CudaWork : public GpuWork {
 public:
  CudaWork()
      : facts_(facts_of_first()),
        cache_bytes_(attribute(cudaDevAttrL2CacheSize)),
        memory_bytes_(cuda_device_list().devices.front().memory_bytes) {}

  const GpuFacts& facts() const override { return facts_; }

  std::vector<std::string> kernels(const std::string& dtype) const override {
    ExpertForms forms;
    forms.add(expert_form(dtype));
    const ExpertKernelSet able = runner_.able(forms);
    std::vector<std::string> names;
    for (const ExpertKernel kernel : kAllExpertKernels)
      if (able.has(kernel)) names.emplace_back(name_of(kernel));
    return names;
  }

  void check(const SweepPoint& point) const override {
    const cost::KernelShape& s = point.shape;
    const std::string text = cost::text_of(s);
    if (s.op != cost::Operation::kExperts)
      throw InvalidArgument(fmt::format(
          "shape {}: the GPU's dense products aren't measured; give shapes of experts", text));
    if (s.hidden_size % 32 != 0 || s.inter_size % 32 != 0 || s.experts > cuda::kMostInstances)
      throw InvalidArgument(fmt::format(
          "shape {}: the CUDA kernels take sizes that are multiples of 32, and at most {} experts",
          text, cuda::kMostInstances));
    if (point.tokens > cuda::kMostPrefillTokens)
      throw InvalidArgument(fmt::format("{} tokens: at most {} are measured on a GPU", point.tokens,
                                        cuda::kMostPrefillTokens));
    // One type's weights stay while the next one's are measured.
    int64_t bytes_an_expert = 0;
    for (const auto form :
         {cuda::ExpertForm::kBf16, cuda::ExpertForm::kInt8, cuda::ExpertForm::kFp8})
      bytes_an_expert += expert_bytes(s, form);
    const double bytes = static_cast<double>(s.experts) * static_cast<double>(bytes_an_expert);
    if (bytes > kMostMemoryFrac * static_cast<double>(memory_bytes_))
      throw InvalidArgument(
          fmt::format("shape {}: its weights don't fit into the GPU's memory", text));
    if (!runner_.able(forms_of(point)).has(kernel_of(point)))
      throw InvalidArgument(
          fmt::format("kernel {}: not in this build, not for this GPU, or not for {} weights",
                      name_of(kernel_of(point)), point.dtype));
  }

  void prepare(const SweepPoint& point) override {
    check(point);
    const cost::KernelShape& s = point.shape;
    const cuda::ExpertForm form = expert_form(point.dtype);
    if (point.dtype != dtype_ || !same_sizes(s, shape_)) {
      weights_.divide(s, form, kCachesBetween * cache_bytes_);
      dtype_ = point.dtype;
      shape_ = s;
    }
    plans_.set(point);
    const int tokens = static_cast<int>(point.tokens);
    make_room(tokens, s);
    const double bytes = plans_.mean_distinct() * static_cast<double>(expert_bytes(s, form));
    const ExpertKernel kernel = kernel_of(point);
    const ExpertForms forms = forms_of(point);
    runner_.load(kernel);
    if (kernel == ExpertKernel::kCudaPrefill && forms.nested()) {
      runner_.reserve_unpacked(s.experts, static_cast<int>(s.hidden_size),
                               static_cast<int>(s.inter_size));
      if (!runner_.unpacks(s.experts))
        throw InvalidArgument(fmt::format(
            "shape {}: the GPU has no memory left to unpack its planes", cost::text_of(s)));
    }
    int64_t at = 0;
    replay_.capture(launches(bytes, point.cold), [&](int i) {
      const size_t which = static_cast<size_t>(i) % plans_.plans().size();
      const DevicePlans::Plan& plan = plans_.plans()[which];
      DecodeExpertsArguments arguments = arguments_of(plan, tokens, s);
      arguments.experts = weights_.experts(at);
      if (point.cold) at = (at + plan.distinct) % weights_.positions();
      runner_.run(kernel, arguments, forms, replay_.stream());
    });
  }

  double run_us(int replays) override { return replay_.us(replays); }

 private:
  static bool same_sizes(cost::KernelShape a, const cost::KernelShape& b) {
    a.load_exponent = b.load_exponent;
    return a == b;
  }

  int launches(double bytes, bool cold) const {
    const double for_time = kLeastGraphUs / (kGuessedStartUs + bytes / kGuessedBytesPerUs);
    const double for_cache = cold ? kCachesBetween * static_cast<double>(cache_bytes_) / bytes : 0;
    const double wanted = std::max(for_time, for_cache) / kDraws;
    return std::clamp(kDraws * static_cast<int>(std::min(wanted, 1e6) + 1), kLeastLaunches,
                      kMostLaunches);
  }

  // Activations, output and workspace for so many tokens.
  void make_room(int tokens, const cost::KernelShape& s) {
    const size_t values = static_cast<size_t>(tokens) * static_cast<size_t>(s.hidden_size);
    constexpr size_t kRunValues = size_t{1} << 20;
    if (x_.bytes() < 2 * values) x_.grow(2 * values, random_bf16(kRunValues, 1.0f));
    if (out_.bytes() < 2 * values) out_ = cuda::DeviceBytes(2 * values);
    const size_t bytes = cuda::prefill_experts_workspace(
        tokens, s.top_k, static_cast<int>(s.hidden_size), static_cast<int>(s.inter_size));
    if (workspace_.bytes() < bytes) workspace_ = cuda::DeviceBytes(bytes);
    workspace_.fill(0);  // what another shape left there isn't this one's
    cuda::check(cudaDeviceSynchronize(), "clearing the workspace");
  }

  DecodeExpertsArguments arguments_of(const DevicePlans::Plan& plan, int tokens,
                                      const cost::KernelShape& s) const {
    DecodeExpertsArguments a;
    a.tokens = tokens;
    a.k = s.top_k;
    a.hidden = static_cast<int>(s.hidden_size);
    a.inter = static_cast<int>(s.inter_size);
    a.instances = s.experts;
    a.x = reinterpret_cast<const __nv_bfloat16*>(x_.data());
    a.plan_instances = plans_.at(plan.instances);
    a.plan_weights = reinterpret_cast<const float*>(plans_.at(plan.weights));
    a.offsets = plans_.at(plan.offsets);
    a.packed = plans_.at(plan.packed);
    a.out = reinterpret_cast<__nv_bfloat16*>(out_.data());
    a.workspace = workspace_.data();
    return a;
  }

  GpuFacts facts_;
  int64_t cache_bytes_ = 0;
  uint64_t memory_bytes_ = 0;
  CudaExpertRunner runner_;
  Replay replay_;
  GpuWeights weights_;
  std::string dtype_;
  cost::KernelShape shape_;
  DevicePlans plans_;
  RandomBlock x_;
  cuda::DeviceBytes out_, workspace_;
};

}  // namespace

std::unique_ptr<GpuWork> make_gpu_work() {
  const CudaDeviceList list = cuda_device_list();
  if (list.devices.empty())
    throw InvalidArgument(
        fmt::format("--device cuda: no CUDA device here ({}); use --device cpu", list.problem));
  return std::make_unique<CudaWork>();
}

}  // namespace thermoe::app
