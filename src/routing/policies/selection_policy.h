// What the policies that change selections share: top-k before, ids, weights and report after.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "routing/policies/specification.h"

namespace thermoe {

// The experts that each token of a batch uses, [T, E] bytes that are 0 or 1.
struct Choice {
  int tokens = 0, experts = 0;
  std::vector<uint8_t> used;

  uint8_t* row(int t) { return used.data() + index(t); }
  const uint8_t* row(int t) const { return used.data() + index(t); }

 private:
  size_t index(int t) const { return static_cast<size_t>(t) * static_cast<size_t>(experts); }
};

// A published baseline: a subclass says which experts each token uses, the rest is the same for
// all. Baselines know nothing of prices, goals, min_k and capacities and ignore them; with a layout
// each expert runs in its first instance. The report's cost is at the request's prices, its
// objective utility (gate mass) minus cost, its bound the trivial one, top-k's utility at no cost:
// no certificate. Deterministic. Not thread-safe: one per thread.
class SelectionPolicy : public RoutingPolicy {
 public:
  const char* name() const override { return name_.c_str(); }
  void route(const RoutingRequest& request, RoutingPlan& plan) override;

  // The parameter of every such policy: weights=own (as the policy's paper has them) or raw (each
  // chosen expert's raw share of the token's original top-k mass).
  static PolicyParameter weights_parameter();

 protected:
  // Reads `weights`.
  SelectionPolicy(const char* name, const PolicyArguments& arguments);

  // The model's own routing of the batch at hand: ids [T, k] by falling score, and masses [T].
  std::span<const int32_t> top_of(int t) const {
    return {top_ids_.data() + static_cast<size_t>(t) * k_, k_};
  }
  float mass_of(int t) const { return masses_[static_cast<size_t>(t)]; }

  // Marks in `row` [E] the k experts of highest score among those that are `open` [E].
  void choose_among(std::span<const float> scores, std::span<const uint8_t> open, int k,
                    uint8_t* row);

  // Sets the experts that each token uses; `choice` comes all 0.
  virtual void choose(const RoutingRequest& request, Choice& choice) = 0;
  // The published weights of a token whose set changed; ids by falling score, none unused. The
  // default is the model's own rule on the token's new set: shares of its mass where the model
  // renormalises, else the scores.
  virtual void weigh(const RoutingRequest& request, int token, std::span<const int32_t> ids,
                     std::span<float> weights);
  // Sets plan.instances [T, k] of the final ids (-1 where unused). The default leaves them empty:
  // each expert's first.
  virtual void place(const RoutingRequest& request, RoutingPlan& plan);

 private:
  void write_token(const RoutingRequest& request, int token, RoutingPlan& plan);

  std::string name_;
  bool raw_weights_ = false;
  size_t k_ = 0;
  std::vector<int32_t> top_ids_;
  std::vector<float> masses_;
  std::vector<uint8_t> seen_;
  Choice choice_;
  std::vector<int32_t> best_;
};

// Instances, packed order and report of a plan whose ids, weights and `changed` are final; `masses`
// as by fill_top_k, `top_k_distinct` what plain top-k uses. Without instances given (empty) each
// expert runs in its first. Throws InvalidArgument on a layout for another number of experts.
void finish_plan(const RoutingRequest& request, std::span<const float> masses, int top_k_distinct,
                 RoutingPlan& plan);

// All experts by falling score, ties by lower id.
void order_by_score(std::span<const float> scores, std::vector<int32_t>& order);

// A score as a multiple of 2^-40: sums of up to 8192 probabilities are then exact, so they don't
// depend on the order of the tokens.
double exact_score(float score);

}  // namespace thermoe
