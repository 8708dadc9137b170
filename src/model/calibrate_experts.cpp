#include "thermoe/calibrate_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "experts/expert_statistics.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// Hands each layer's passes to its statistics.
class Recorder : public PlanObserver {
 public:
  explicit Recorder(ThreadPool& pool) : pool_(pool) {}

  void on_plan(int, const RoutingPlan&) override {}
  void on_layer(const LayerPass& pass) override {
    const auto [found, added] =
        layers_.try_emplace(pass.layer.settings().layer, pass.layer.experts());
    found->second.add(pass, sampled, pool_, workspace_);
  }
  const std::map<int, ExpertStatistics>& layers() const { return layers_; }

  std::vector<int32_t> sampled;  // rows of the pass at hand that every expert runs on

 private:
  ThreadPool& pool_;
  StatisticsWorkspace workspace_;
  std::map<int, ExpertStatistics> layers_;
};

// Windows of one text after the other through the model.
class Windows {
 public:
  Windows(LanguageModel& model, Recorder& recorder, int64_t context, int64_t tokens,
          int64_t sampled)
      : model_(model),
        recorder_(recorder),
        cache_(model.make_cache(1, context)),
        sequences_(static_cast<size_t>(context), 0),
        tokens_(tokens),
        sampled_(sampled) {
    for (int64_t p = 0; p < context; ++p) positions_.push_back(static_cast<int32_t>(p));
  }

  void run(std::span<const int32_t> window) {
    recorder_.sampled.clear();
    for (size_t r = 0; r < window.size(); ++r, ++seen_)
      // Of all tokens, each at which the evenly rising count of samples reaches the next integer.
      if ((seen_ + 1) * sampled_ / tokens_ > seen_ * sampled_ / tokens_)
        recorder_.sampled.push_back(static_cast<int32_t>(r));
    const RowGroup all{0, static_cast<int64_t>(window.size())};
    model_.forward({window,
                    std::span(sequences_).first(window.size()),
                    std::span(positions_).first(window.size()),
                    {&all, 1}},
                   {.policy = &policy_, .prices = {}, .observer = &recorder_}, *cache_, {}, {});
  }
  int64_t seen() const { return seen_; }

 private:
  LanguageModel& model_;
  Recorder& recorder_;
  TopKPolicy policy_;
  std::unique_ptr<SequenceCache> cache_;
  std::vector<int32_t> sequences_, positions_;
  int64_t tokens_, sampled_, seen_ = 0;
};

std::string shape_of(int64_t layers, int experts, int top_k) {
  return fmt::format("{} layers, {} experts, top-{}", layers, experts, top_k);
}

}  // namespace

ExpertCalibration calibrate_experts(LanguageModel& model,
                                    std::span<const std::vector<int32_t>> texts, ThreadPool& pool,
                                    const CalibrationSettings& settings) {
  if (settings.context < 1 || settings.similarity_tokens < 1)
    throw InvalidArgument(fmt::format("context {} and similarity_tokens {} must be 1 or more",
                                      settings.context, settings.similarity_tokens));
  ExpertCalibration calibration;
  int64_t longest = 0;
  for (const auto& text : texts) {
    const int64_t length = static_cast<int64_t>(text.size());
    calibration.tokens += length;
    longest = std::max(longest, length);
  }
  if (calibration.tokens == 0) throw InvalidArgument("a calibration needs at least one token");
  calibration.similarity_tokens = std::min(settings.similarity_tokens, calibration.tokens);
  const ModelConfig& config = model.config();
  calibration.experts = config.experts;
  calibration.top_k = config.top_k;

  Recorder recorder(pool);
  const int64_t context = std::min(settings.context, longest);
  Windows windows(model, recorder, context, calibration.tokens, calibration.similarity_tokens);
  for (const auto& text : texts)
    for (size_t first = 0; first < text.size(); first += static_cast<size_t>(context)) {
      windows.run(std::span(text).subspan(
          first, std::min(static_cast<size_t>(context), text.size() - first)));
      if (settings.progress) settings.progress(windows.seen(), calibration.tokens);
    }
  calibration.layers.resize(static_cast<size_t>(config.layers));
  for (const auto& [number, statistics] : recorder.layers())
    calibration.layers[static_cast<size_t>(number)] = statistics.result();
  return calibration;
}

void check_calibration(const ExpertCalibration& calibration, const ModelConfig& config) {
  const int64_t layers = static_cast<int64_t>(calibration.layers.size());
  const auto refuse = [&](const std::string& difference) {
    throw InvalidArgument(
        fmt::format("the calibration is of another model, '{}': {}; make this model's with thermoe "
                    "calibrate-experts",
                    calibration.model, difference));
  };
  if (layers != config.layers || calibration.experts != config.experts ||
      calibration.top_k != config.top_k)
    refuse(fmt::format("{}, where this one has {}",
                       shape_of(layers, calibration.experts, calibration.top_k),
                       shape_of(config.layers, config.experts, config.top_k)));
  for (size_t l = 0; l < calibration.layers.size(); ++l)
    if (calibration.layers[l].load_frac.empty() == config.sparse[l])
      refuse(fmt::format("layer {} is {} here", l, config.sparse[l] ? "sparse" : "dense"));
}

}  // namespace thermoe
