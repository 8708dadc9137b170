// The sweep of a GPU that is made up, and what the program says where there is none.
#include "gpu_sweep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "calibration.h"
#include "cost/kernel_profile.h"
#include "kernels/cuda/gpu.h"
#include "nano.h"
#include "program.h"
#include "refusals.h"
#include "sweep_log.h"
#include "sweep_points.h"
#include "thermoe/error.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe::app {
namespace {

// Latency follows from the point alone; a run takes a millisecond.
class FakeGpuWork : public GpuWork {
 public:
  FakeGpuWork() {
    facts_.name = "NVIDIA Fake, 1";
    facts_.uuid = "GPU-fake";
    facts_.cuda_version = "13.0";
    facts_.peaks = {3e12, 1e15};
  }
  const GpuFacts& facts() const override { return facts_; }
  std::vector<std::string> kernels(const std::string& dtype) const override {
    if (dtype == "fp8") return {"cuda_prefill"};
    return {"cuda_experts", "cuda_prefill"};
  }
  void check(const SweepPoint& point) const override {
    if (point.shape.hidden_size % 32 != 0) throw InvalidArgument("multiples of 32");
  }
  void prepare(const SweepPoint& point) override {
    check(point);
    const double bits = point.dtype == "bf16" ? 16 : point.dtype == "int8" ? 8 : 4;
    const cost::KernelLoad load = cost::load_of(point.shape, static_cast<double>(point.tokens));
    latency_us_ = 10 + load.distinct * bits * (point.cold ? 1 : 0.5);
  }
  double run_us(int) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return latency_us_;
  }

 private:
  GpuFacts facts_;
  double latency_us_ = 0;
};

// A board at 400 W.
class FakeBoard : public TelemetrySource {
 public:
  explicit FakeBoard(uint64_t reasons = 0) : reasons_(reasons) {}
  std::string name() const override { return "fake"; }
  DeviceInfo device() const override { return {"NVIDIA Fake, 1", "GPU-fake", "580.1", false}; }
  HardwareState sample() override {
    HardwareState state;
    state.time_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    state.present = true;
    state.power_instant_w = 400;
    state.power_limit_w = 700;
    state.sm_clock_mhz = 1980;
    state.throttle_reasons = reasons_;
    return state;
  }

 private:
  uint64_t reasons_;
};

GpuSweep fake_sweep(std::unique_ptr<TelemetrySource> board = nullptr) {
  return {std::make_unique<FakeGpuWork>(), std::move(board)};
}

SweepSettings hasty() {
  SweepSettings settings;
  settings.budget_s = 0.1;
  return settings;
}

SweepPlan small_plan() {
  SweepPlan plan;
  plan.shapes = {parse_shape("64x32e8k2")};
  plan.tokens = {1, 4, 16};
  plan.dtypes = {"bf16", "int8", "int4"};
  plan.most_warm_tokens = 4;
  return plan;
}

TEST(GpuSweep, ItsLogHoldsEveryTypeAndIsTakenUp) {
  const ScratchFile file("gpu-sweep.csv");
  GpuSweep gpu = fake_sweep();
  const std::vector<SweepPoint> points = points_of(small_plan());
  EXPECT_EQ(points.size(), 3u * (6 + 2));  // cold under two loads, warm at 1 and 4 tokens
  {
    SweepLog log(file.path(), gpu);
    SweepSettings settings = hasty();
    int asked = 0;
    settings.stop = [&] { return asked++ == 10; };
    EXPECT_EQ(run_sweep(gpu, points, log, settings).left, 14);
  }
  SweepLog log(file.path(), gpu);
  EXPECT_EQ(run_sweep(gpu, points, log, hasty()).resumed, 10);
  const auto rows = cost::read_measured_table(file.path());
  ASSERT_EQ(rows.size(), points.size());
  std::set<std::string> seen;
  for (const cost::MeasuredRow& row : rows) seen.insert(row.kernel + " " + row.dtype);
  EXPECT_EQ(seen, (std::set<std::string>{
                      "thermoe_cuda_experts bf16", "thermoe_cuda_experts int8",
                      "thermoe_cuda_experts int4", "thermoe_cuda_experts_cold bf16",
                      "thermoe_cuda_experts_cold int8", "thermoe_cuda_experts_cold int4"}));
  EXPECT_EQ(rows.front().device, "NVIDIA Fake  1");
  EXPECT_EQ(log.rows().front().driver, "CUDA 13.0");
  EXPECT_EQ(rows.front().power_w, 0);
}

// What a model asks for without naming a kernel comes from memory, in each type.
TEST(GpuSweep, TheCostModelReadsEachTypesOwnRows) {
  const ScratchFile file("gpu-sweep.csv"), out("gpu-profile.json");
  GpuSweep gpu = fake_sweep();
  SweepLog log(file.path(), gpu);
  run_sweep(gpu, points_of(small_plan()), log, hasty());
  const Calibration calibration = calibrate(log.rows(), gpu.peaks(), {});
  ASSERT_EQ(calibration.samples.size(), 6u);
  EXPECT_EQ(calibration.samples.at("thermoe_cuda_experts_cold int4").points, 6u);
  cost::write_kernel_profile(calibration.profile, out.path());
  ExpertsQuery query;
  query.hidden_size = 64;
  query.expert_inter_size = 32;
  query.experts = 8;
  query.top_k = 2;
  query.tokens = 4;
  CostShape none;
  for (const auto& [dtype, bits] : {std::pair{"bf16", 16}, {"int8", 8}, {"int4", 4}}) {
    const KernelCostModel model(out.path(), none, {dtype, ""});
    const CostEstimate estimate = model.experts(query);
    EXPECT_EQ(estimate.source, CostSource::kMeasured);
    EXPECT_NEAR(estimate.latency_us, 10 + 8 * bits, 1e-3) << dtype;
  }
}

TEST(GpuSweep, OnlyPointsThatAskForItGetPower) {
  GpuSweep gpu = fake_sweep(std::make_unique<FakeBoard>());
  EXPECT_EQ(gpu.driver(), "NVIDIA 580.1 CUDA 13.0");
  SweepPoint point;
  point.shape = parse_shape("64x32e8k2");
  const SweepSample quick = gpu.run(point, 0.05);
  EXPECT_FALSE(quick.power_w);
  EXPECT_EQ(quick.clock_mhz, 1980);
  point.least_s = 0.4;
  const SweepSample sustained = gpu.run(point, 0.4);
  ASSERT_TRUE(sustained.power_w);
  EXPECT_NEAR(*sustained.power_w, 400, 1e-6);
  EXPECT_EQ(sustained.power_limit_w, 700);
  EXPECT_GE(sustained.wall_s, 0.4);
  EXPECT_FALSE(sustained.throttled || sustained.power_capped);
}

TEST(GpuSweep, ThePowerCapIsAStateAndHeatAnError) {
  SweepPoint point;
  point.shape = parse_shape("64x32e8k2");
  GpuSweep capped = fake_sweep(std::make_unique<FakeBoard>(kThrottleSoftwarePowerCap));
  const SweepSample at_cap = capped.run(point, 0.05);
  EXPECT_TRUE(at_cap.power_capped);
  EXPECT_FALSE(at_cap.throttled);
  GpuSweep hot = fake_sweep(std::make_unique<FakeBoard>(kThrottleSoftwareThermal));
  EXPECT_TRUE(hot.run(point, 0.05).throttled);

  const ScratchFile file("gpu-sweep.csv");
  {
    SweepLog log(file.path(), capped);
    EXPECT_EQ(run_sweep(capped, {point}, log, hasty()).measured, 1);
  }
  const SweepLog log(file.path(), capped);
  ASSERT_EQ(log.rows().size(), 1u);
  EXPECT_TRUE(log.rows().front().power_capped);
  EXPECT_TRUE(log.done(log.rows().front()));
}

TEST(GpuSweep, RefusesPointsBeforeAnyIsMeasured) {
  const GpuSweep gpu = fake_sweep();
  SweepPoint point;
  point.shape = parse_shape("48x32e8k2");
  EXPECT_ERROR(InvalidArgument, gpu.check({point}), "multiples of 32");
}

TEST(GpuSweepPoints, AreEnoughForHeldOutErrorsAndHavePowerInPlaces) {
  const SweepPlan plan = default_gpu_sweep(false);
  EXPECT_GE(plan.shapes.size(), 8u);
  std::set<std::string> distinct;
  for (const cost::KernelShape& shape : plan.shapes) {
    distinct.insert(cost::text_of(shape));
    EXPECT_EQ(shape.hidden_size % 32 + shape.inter_size % 32, 0) << cost::text_of(shape);
  }
  EXPECT_EQ(distinct.size(), plan.shapes.size());
  const std::vector<SweepPoint> points = points_of(plan);
  const size_t each = plan.shapes.size() * plan.dtypes.size();
  const auto count = [&](auto&& which) {
    return static_cast<size_t>(std::count_if(points.begin(), points.end(), which));
  };
  EXPECT_EQ(count([](const SweepPoint& p) { return p.least_s > 0; }),
            each * plan.power_tokens.size());
  EXPECT_EQ(count([](const SweepPoint& p) { return p.least_s > 0 && !p.cold; }), 0u);
  EXPECT_EQ(count([](const SweepPoint& p) { return p.cold; }),
            each * plan.load_exponents.size() * plan.tokens.size());
  EXPECT_GT(count([](const SweepPoint& p) { return !p.cold; }), 0u);
}

TEST(GpuSweepPoints, PrefillIsMeasuredAtManyTokensWithPower) {
  const std::vector<SweepPoint> points = points_of(gpu_prefill_sweep(false, "fp8", "cuda_prefill"));
  int64_t most = 0, with_power = 0;
  for (const SweepPoint& p : points) {
    EXPECT_TRUE(p.cold && p.dtype == "fp8" && p.kernel == "cuda_prefill");
    most = std::max(most, p.tokens);
    with_power += p.least_s > 0;
  }
  EXPECT_EQ(most, 16384);
  EXPECT_EQ(with_power, 4 * 3);  // of each shape at three counts, balanced
}

TEST(GpuSweepPoints, AGpuTakesLargerShapes) {
  EXPECT_THROW(parse_shape("2880x2880e128k4"), InvalidArgument);
  EXPECT_EQ(parse_shape("2880x2880e128k4", kMostGpuWeightsLog2).experts, 128);
}

TEST(CalibrateCuda, SaysWhenThereIsNoGpu) {
  if (test::no_gpu().empty()) GTEST_SKIP() << "there is a GPU";
  const ScratchFile out("calibrated.json");
  const std::string command = "calibrate --device cuda --quick --out " + out.path();
  expect_refusal(command, "--device cuda: no CUDA device here (");
  expect_refusal(command, "; use --device cpu");
  EXPECT_THROW(make_gpu_work(), InvalidArgument);
}

using GpuCalibrate = test::GpuTest;

TEST_F(GpuCalibrate, MeasuresEveryTypeOfASmallLayer) {
  const std::unique_ptr<GpuWork> work = make_gpu_work();
  EXPECT_EQ(work->facts().uuid.substr(0, 4), "GPU-");
  EXPECT_GT(work->facts().peaks.memory_bytes_per_s, 1e11);
  for (const char* shape : {"256x64e32k4", "2048x768e16k2"})
    for (const char* dtype : {"bf16", "int8", "int4"})
      for (const bool cold : {false, true}) {
        SweepPoint point;
        point.shape = parse_shape(shape);
        point.shape.load_exponent = cold ? 1.2 : 0;
        point.tokens = 5;
        point.dtype = dtype;
        point.cold = cold;
        work->prepare(point);
        const double us = work->run_us(2);
        EXPECT_GT(us, 1) << shape << dtype;
        EXPECT_LT(us, 1e4) << shape << dtype;
      }
  SweepPoint product;
  product.shape = parse_shape("256x64");
  EXPECT_ERROR(InvalidArgument, work->prepare(product), "dense products");
  SweepPoint unknown;
  unknown.shape = parse_shape("256x64e32k4");
  unknown.dtype = "fp4";
  EXPECT_ERROR(InvalidArgument, work->prepare(unknown), "bf16, int8, int4 and fp8");
}

// Only the kernel for many tokens has fp8, and only where the GPU has warpgroup products.
TEST_F(GpuCalibrate, MeasuresFp8WhereAKernelHasIt) {
  const std::unique_ptr<GpuWork> work = make_gpu_work();
  SweepPoint fp8;
  fp8.shape = parse_shape("2048x768e16k2");
  fp8.dtype = "fp8";
  fp8.tokens = 512;
  fp8.cold = true;
  EXPECT_ERROR(InvalidArgument, work->prepare(fp8), "not for fp8 weights");
  if (work->kernels("fp8").empty()) GTEST_SKIP() << "no kernel for fp8 on this GPU";
  EXPECT_EQ(work->kernels("fp8"), std::vector<std::string>{"cuda_prefill"});
  fp8.kernel = "cuda_prefill";
  work->prepare(fp8);
  const double fp8_us = work->run_us(2);
  SweepPoint bf16 = fp8;
  bf16.dtype = "bf16";
  work->prepare(bf16);
  EXPECT_GT(fp8_us, 1);
  EXPECT_LT(fp8_us, work->run_us(2));
}

}  // namespace
}  // namespace thermoe::app
