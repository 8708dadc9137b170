// sere: secondary experts hand over to the most similar primary one. Wu, Cheng, Lv, Ou, Yuan 2026,
// "SERE: Similarity-based Expert Re-routing for Efficient Batch Decoding in MoE Models" (ICLR 2026,
// arXiv:2602.07616), section 3, and the authors' kernel (JL-Cheng/SERE).
// Implemented: the union of the tokens' top-S is primary. Each other expert of a token's top-k that
// is not primary is replaced by the primary expert of highest similarity (ties: lower id), unless
// a threshold above 0 is given and that similarity is below it. Weights as published: the slot
// keeps the weight that the model gave the replaced expert; slots that end at one expert add up.
// Similarity is the calibration's mean cosine of two experts' outputs; the authors offer cosine,
// CKA and a Frobenius-norm similarity (their default), so thresholds do not carry over from there.
#include <fmt/format.h>

#include <algorithm>

#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

class Sere : public SelectionPolicy {
 public:
  Sere(const PolicyArguments& arguments, const ExpertCalibration& calibration)
      : SelectionPolicy("sere", arguments),
        calibration_(calibration),
        primary_(arguments.integer("primary", 1)),
        threshold_(arguments.number("threshold", 0.0, 1.0)) {}

 protected:
  void choose(const RoutingRequest& request, Choice& choice) override {
    const std::vector<float>& similarity = similarity_of(request.layer, choice.experts);
    open_.assign(static_cast<size_t>(choice.experts), 0);
    const size_t kept = static_cast<size_t>(std::min(primary_, request.k));
    for (int t = 0; t < choice.tokens; ++t)
      for (const int32_t e : top_of(t).first(kept)) open_[static_cast<size_t>(e)] = 1;
    find_targets(similarity);
    for (int t = 0; t < choice.tokens; ++t)
      for (const int32_t e : top_of(t)) choice.row(t)[targets_[static_cast<size_t>(e)]] = 1;
  }

  void weigh(const RoutingRequest& request, int token, std::span<const int32_t> ids,
             std::span<float> weights) override {
    std::fill(weights.begin(), weights.end(), 0.0f);
    for (const int32_t e : top_of(token)) {
      const float score = request.scores(token, e);
      const auto slot = std::find(ids.begin(), ids.end(), targets_[static_cast<size_t>(e)]);
      weights[static_cast<size_t>(slot - ids.begin())] +=
          request.renormalize ? score / mass_of(token) : score;
    }
  }

 private:
  const std::vector<float>& similarity_of(int layer, int experts) const {
    const size_t count = static_cast<size_t>(experts);
    const size_t index = static_cast<size_t>(layer);
    if (layer < 0 || index >= calibration_.layers.size() ||
        calibration_.layers[index].similarity.size() != count * count)
      throw InvalidArgument(
          fmt::format("policy sere: the calibration '{}' holds no similarity of {} experts for "
                      "layer {}: give the calibration of this model",
                      calibration_.model, experts, layer));
    return calibration_.layers[index].similarity;
  }

  // Where each expert's tokens go that have it in their top-k.
  void find_targets(const std::vector<float>& similarity) {
    const size_t experts = open_.size();
    targets_.resize(experts);
    for (size_t e = 0; e < experts; ++e) {
      targets_[e] = static_cast<int32_t>(e);
      if (open_[e] != 0) continue;
      const float* row = similarity.data() + e * experts;
      int32_t best = -1;
      for (size_t p = 0; p < experts; ++p)
        if (open_[p] != 0 && (best < 0 || row[p] > row[best])) best = static_cast<int32_t>(p);
      if (threshold_ > 0.0 && static_cast<double>(row[best]) < threshold_) continue;
      targets_[e] = best;
    }
  }

  const ExpertCalibration& calibration_;
  int primary_;
  double threshold_;
  std::vector<uint8_t> open_;
  std::vector<int32_t> targets_;
};

std::unique_ptr<RoutingPolicy> make_sere(const PolicyArguments& arguments,
                                         const PolicyContext& context) {
  if (context.calibration == nullptr)
    throw InvalidArgument(
        "policy sere needs an expert calibration (similarity of the experts): give the model's");
  return std::make_unique<Sere>(arguments, *context.calibration);
}

}  // namespace

PolicyMaker sere_policy() {
  return {.info = {.name = "sere",
                   .summary = "secondary experts are replaced by the most similar primary ones",
                   .source = "Wu et al. 2026, SERE; needs a calibration",
                   .parameters = {{"primary", "4", "each token's first experts that stay"},
                                  {"threshold", "0", "least similarity to replace; 0: any"},
                                  SelectionPolicy::weights_parameter()}},
          .make = make_sere};
}

}  // namespace thermoe
