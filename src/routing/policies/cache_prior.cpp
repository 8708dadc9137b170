// cacheprior: experts that are in the cache get a head start. Skliar, van Rozendaal, Lepert,
// Boinovski, van Baalen, Nagel, Whatmough, Bejnordi 2024, "Mixture of Cache-Conditional Experts for
// Efficient Mobile Device Inference" (arXiv:2412.00099), section 4.3, equations 9 and 10.
// Implemented, per layer: experts are ranked by z + lambda * range for those resident (and for the
// token's own top-`top`, so that they are never displaced), z for the others; z are logits (the
// scores' logarithms), range the running mean of a token's highest minus lowest logit over the
// tokens seen before (its own at the first step). The k first are taken, their weights by the
// model's rule from the original scores. Resident are the `size` experts used last (LRU); those of
// one step leave in the order of falling score, as the paper has it. lambda = 0 is top-k.
// The paper decodes one sequence. Here all tokens of a batch see the cache as the last step left
// it, and the union of what they use goes into it, by summed score; of a union larger than the
// cache the `size` heaviest go in. A policy keeps this state for one stream of batches.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"

namespace thermoe {
namespace {

class CachePrior : public SelectionPolicy {
 public:
  explicit CachePrior(const PolicyArguments& arguments)
      : SelectionPolicy("cacheprior", arguments),
        lambda_(arguments.number("lambda", 0.0, 1.0)),
        size_(arguments.integer("size", 0)),
        top_(arguments.integer("top", 0)) {}

 protected:
  void choose(const RoutingRequest& request, Choice& choice) override {
    Layer& layer = layers_[request.layer];
    const size_t experts = static_cast<size_t>(choice.experts);
    if (layer.last_used.size() != experts)
      layer = Layer{.last_used = std::vector<int64_t>(experts, 0)};
    find_residents(layer);
    double ranges = 0;
    for (int t = 0; t < choice.tokens; ++t) {
      const double range = fill_logits(request.scores.row_span(t));
      ranges += exact_range(range);
      const double head_start = lambda_ * (layer.tokens > 0 ? layer.ranges / layer.tokens : range);
      for (size_t e = 0; e < experts; ++e)
        if (resident_[e] != 0) logits_[e] += head_start;
      for (const int32_t e : top_of(t).first(static_cast<size_t>(std::min(top_, request.k))))
        if (resident_[static_cast<size_t>(e)] == 0) logits_[static_cast<size_t>(e)] += head_start;
      take_first(request, t, choice.row(t));
    }
    layer.ranges += ranges;
    layer.tokens += choice.tokens;
    touch(request, choice, layer);
  }

 private:
  struct Layer {
    std::vector<int64_t> last_used;  // [E] by time; 0: never
    int64_t clock = 0;
    double ranges = 0;  // sum over the tokens so far
    double tokens = 0;
  };

  static double exact_range(double range) { return std::nearbyint(range * 1048576.0) / 1048576.0; }

  size_t size_of(size_t experts) const {
    return size_ > 0 ? std::min(experts, static_cast<size_t>(size_))
                     : std::max<size_t>(1, experts / 2);
  }

  void find_residents(const Layer& layer) {
    const size_t experts = layer.last_used.size();
    order_.resize(experts);
    for (size_t e = 0; e < experts; ++e) order_[e] = static_cast<int32_t>(e);
    std::sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) {
      const int64_t at_a = layer.last_used[static_cast<size_t>(a)];
      const int64_t at_b = layer.last_used[static_cast<size_t>(b)];
      return at_a != at_b ? at_a > at_b : a < b;
    });
    resident_.assign(experts, 0);
    for (size_t i = 0; i < size_of(experts); ++i) {
      const size_t e = static_cast<size_t>(order_[i]);
      resident_[e] = layer.last_used[e] > 0 ? 1 : 0;
    }
  }

  // Fills logits_ and returns their range. A score of zero counts as the smallest float.
  double fill_logits(std::span<const float> scores) {
    logits_.resize(scores.size());
    for (size_t e = 0; e < scores.size(); ++e)
      logits_[e] =
          std::log(static_cast<double>(std::max(scores[e], std::numeric_limits<float>::min())));
    const auto [low, high] = std::minmax_element(logits_.begin(), logits_.end());
    return *high - *low;
  }

  void take_first(const RoutingRequest& request, int t, uint8_t* row) {
    const auto scores = request.scores.row_span(t);
    for (size_t e = 0; e < order_.size(); ++e) order_[e] = static_cast<int32_t>(e);
    std::partial_sort(order_.begin(), order_.begin() + request.k, order_.end(),
                      [&](int32_t a, int32_t b) {
                        const size_t i = static_cast<size_t>(a), j = static_cast<size_t>(b);
                        if (logits_[i] != logits_[j]) return logits_[i] > logits_[j];
                        return scores[i] != scores[j] ? scores[i] > scores[j] : a < b;
                      });
    for (int i = 0; i < request.k; ++i) row[order_[static_cast<size_t>(i)]] = 1;
  }

  // The experts that this step used, lightest last: the heaviest leaves first.
  void touch(const RoutingRequest& request, const Choice& choice, Layer& layer) {
    const size_t experts = layer.last_used.size();
    sums_.assign(experts, 0.0);
    std::vector<int32_t>& used = order_;
    used.clear();
    for (size_t e = 0; e < experts; ++e) {
      bool any = false;
      for (int t = 0; t < choice.tokens; ++t) {
        if (choice.row(t)[e] == 0) continue;
        any = true;
        sums_[e] += exact_score(request.scores(t, static_cast<int64_t>(e)));
      }
      if (any) used.push_back(static_cast<int32_t>(e));
    }
    std::sort(used.begin(), used.end(), [this](int32_t a, int32_t b) {
      const double sum_a = sums_[static_cast<size_t>(a)], sum_b = sums_[static_cast<size_t>(b)];
      return sum_a != sum_b ? sum_a > sum_b : a < b;
    });
    used.resize(std::min(used.size(), size_of(experts)));
    for (const int32_t e : used) layer.last_used[static_cast<size_t>(e)] = ++layer.clock;
  }

  double lambda_;
  int size_, top_;
  std::map<int, Layer> layers_;
  std::vector<uint8_t> resident_;
  std::vector<double> logits_, sums_;
  std::vector<int32_t> order_;
};

}  // namespace

PolicyMaker cache_prior_policy() {
  return {
      .info = {.name = "cacheprior",
               .summary = "experts used at the last steps rank higher, by lambda of the range",
               .source = "Skliar et al. 2024, cache-conditional experts",
               .parameters = {{"lambda", "0.5", "of the logits' range"},
                              {"size", "0", "experts in a layer's cache; 0: half"},
                              {"top", "2", "each token's first experts that are never displaced"},
                              SelectionPolicy::weights_parameter()}},
      .make = make_policy<CachePrior>};
}

}  // namespace thermoe
