// staticmix, threshold: which of two precisions each expert runs in, on a layout with variants;
// what the routing program's choice of variants is measured against.
//
// staticmix: the precision of an expert is fixed when the model is quantised, as in Huang et al.
// 2024, "Mixture Compressor for Mixture-of-Experts LLMs Gains More" (arXiv:2410.06270), which
// weighs how often an expert is used against what its quantisation loses. Implemented: a layer's
// experts of highest load x mean squared output (both of the calibration, 1 where there is none) x
// what the coarse variant's error is above the fine one's run in the fine one, a fraction `frac` of
// them; the others in the coarse one, whatever the batch. Tokens' experts and weights stay top-k's.
//
// threshold: the precision follows the batch, as in Tang et al. 2024, "HOBBIT: A Mixed Precision
// Expert Offloading System for Fast MoE Inference" (arXiv:2411.01433), which loads less precisely
// what the gate scores low. Implemented: an expert runs in the fine variant where the batch's sum
// of squared weights on it (shares of the token's top-k mass) is theta or more, else in the coarse
// one; where that sum is below `close` the expert is not used at all, and its tokens take the best
// of the others (the k with the highest sums always stay).
//
// Fine is an expert's first instance, coarse its last variant on the same device. An expert that
// comes in one variant only runs in that. Both throw InvalidArgument on a request without a layout.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// Top-k, unless a subclass chooses otherwise, in one of two instances of each expert.
class PrecisionPolicy : public SelectionPolicy {
 public:
  using SelectionPolicy::SelectionPolicy;

 protected:
  // Sets fine_ [E] to 1 where an expert runs in its fine variant.
  virtual void refine(const RoutingRequest& request) = 0;

  void choose(const RoutingRequest& request, Choice& choice) override {
    if (request.layout == nullptr)
      throw InvalidArgument(fmt::format(
          "policy {} chooses between two precisions: give it experts that can be had in "
          "both (--variants int8,int4)",
          name()));
    refine(request);
    for (int t = 0; t < choice.tokens; ++t)
      for (const int32_t e : top_of(t)) choice.row(t)[e] = 1;
  }

  void place(const RoutingRequest& request, RoutingPlan& plan) override {
    plan.instances.resize(plan.ids.size());
    std::transform(plan.ids.begin(), plan.ids.end(), plan.instances.begin(), [&](int32_t id) {
      if (id < 0) return int32_t{-1};
      const int32_t first = request.layout->first[static_cast<size_t>(id)];
      return fine_[static_cast<size_t>(id)] != 0 ? first : coarse(*request.layout, id);
    });
  }

  static int32_t coarse(const ExpertLayout& layout, int32_t expert) {
    const auto own = layout.of(expert);
    const auto last = std::find_if(own.rbegin(), own.rend(), [&](const ExpertInstance& instance) {
      return instance.device == own.front().device;
    });
    return layout.first[static_cast<size_t>(expert)] + static_cast<int32_t>(own.rend() - last) - 1;
  }

  std::vector<uint8_t> fine_;  // [E]
};

class StaticMix : public PrecisionPolicy {
 public:
  StaticMix(const PolicyArguments& arguments, const ExpertCalibration* calibration)
      : PrecisionPolicy("staticmix", arguments),
        calibration_(calibration),
        frac_(arguments.number("frac", 0.0, 1.0)) {}

 protected:
  void refine(const RoutingRequest& request) override {
    const int experts = static_cast<int>(request.scores.cols);
    const std::vector<double> harm = harm_of(*request.layout, request.layer, experts);
    order_.resize(harm.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [&harm](int32_t a, int32_t b) {
      return harm[static_cast<size_t>(a)] > harm[static_cast<size_t>(b)];
    });
    fine_.assign(harm.size(), 0);
    const auto count = static_cast<size_t>(std::lround(frac_ * experts));
    for (size_t i = 0; i < count; ++i) fine_[static_cast<size_t>(order_[i])] = 1;
  }

 private:
  std::vector<double> harm_of(const ExpertLayout& layout, int layer, int experts) const {
    std::vector<double> harm;
    harm.reserve(static_cast<size_t>(experts));
    for (int32_t e = 0; e < experts; ++e)
      harm.push_back(static_cast<double>(layout.error_of(coarse(layout, e))) -
                     static_cast<double>(layout.error_of(layout.first[static_cast<size_t>(e)])));
    if (calibration_ == nullptr) return harm;
    const size_t index = static_cast<size_t>(layer);
    if (layer < 0 || index >= calibration_->layers.size() ||
        calibration_->layers[index].load_frac.size() != harm.size())
      throw InvalidArgument(
          fmt::format("policy staticmix: the calibration '{}' holds no loads of {} experts for "
                      "layer {}: give the calibration of this model",
                      calibration_->model, experts, layer));
    const LayerCalibration& own = calibration_->layers[index];
    for (size_t e = 0; e < harm.size(); ++e) {
      harm[e] *= static_cast<double>(own.load_frac[e]);
      if (own.output_square.size() == harm.size())
        harm[e] *= static_cast<double>(own.output_square[e]);
    }
    return harm;
  }

  const ExpertCalibration* calibration_;
  double frac_;
  std::vector<int32_t> order_;
};

class Threshold : public PrecisionPolicy {
 public:
  explicit Threshold(const PolicyArguments& arguments)
      : PrecisionPolicy("threshold", arguments),
        theta_(arguments.number("theta", 0.0)),
        close_(arguments.number("close", 0.0)) {}

 protected:
  void refine(const RoutingRequest& request) override {
    sums_.assign(static_cast<size_t>(request.scores.cols), 0.0);
    for (int t = 0; t < request.scores.rows; ++t)
      for (const int32_t e : top_of(t)) {
        const float share = request.scores(t, e) / mass_of(t);
        sums_[static_cast<size_t>(e)] += exact_score(share * share);
      }
    fine_.resize(sums_.size());
    std::transform(sums_.begin(), sums_.end(), fine_.begin(),
                   [this](double sum) { return static_cast<uint8_t>(sum >= theta_); });
  }

  void choose(const RoutingRequest& request, Choice& choice) override {
    PrecisionPolicy::choose(request, choice);
    if (close_ == 0.0) return;
    order_.resize(sums_.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [this](int32_t a, int32_t b) {
      return sums_[static_cast<size_t>(a)] > sums_[static_cast<size_t>(b)];
    });
    open_.resize(sums_.size());
    for (size_t i = 0; i < order_.size(); ++i) {
      const size_t e = static_cast<size_t>(order_[i]);
      open_[e] = i < static_cast<size_t>(request.k) || sums_[e] >= close_;
    }
    std::fill(choice.used.begin(), choice.used.end(), uint8_t{0});
    for (int t = 0; t < choice.tokens; ++t)
      choose_among(request.scores.row_span(t), open_, request.k, choice.row(t));
  }

 private:
  double theta_, close_;
  std::vector<double> sums_;  // [E] of the batch's squared weights
  std::vector<uint8_t> open_;
  std::vector<int32_t> order_;
};

}  // namespace

PolicyMaker static_mix_policy() {
  return {.info = {.name = "staticmix",
                   .summary = "top-k; the experts that quantise worst stay in the finer variant",
                   .source = "after Huang et al. 2024, MC; needs two variants",
                   .parameters = {{"frac", "0.25", "share of a layer's experts in the finer one"},
                                  SelectionPolicy::weights_parameter()},
                   .needs_layout = true},
          .make = [](const PolicyArguments& arguments,
                     const PolicyContext& context) -> std::unique_ptr<RoutingPolicy> {
            return std::make_unique<StaticMix>(arguments, context.calibration);
          }};
}

PolicyMaker threshold_policy() {
  return {
      .info = {.name = "threshold",
               .summary = "the finer variant where a batch's squared weights say so",
               .source = "after Tang et al. 2024, HOBBIT; needs two variants",
               .parameters = {{"theta", "0.1", "least sum of squared weights for the finer one"},
                              {"close", "0", "least sum of squared weights to be used at all"},
                              SelectionPolicy::weights_parameter()},
               .needs_layout = true},
      .make = make_policy<Threshold>};
}

}  // namespace thermoe
