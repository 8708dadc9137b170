// --variants: the precisions that a run may use of a model's experts, and what reading them moves.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "thermoe/expert_variants.h"
#include "thermoe/moe_layer.h"

namespace thermoe::app {

// What a plan's instances read, in one layer.
struct PlanReads {
  double bytes = 0;         // of weights, planes and scales
  double bf16_experts = 0;  // so many experts in their original bf16 have as many bytes
  std::array<double, kPrecisions> opened{};  // instances, by precision

  double instances() const { return opened[0] + opened[1] + opened[2] + opened[3]; }
};

// The names of the precisions, in reports and --variants.
constexpr std::array<const char*, kPrecisions> kPrecisionNames{"bf16", "int8", "int4", "fp8"};

// "int8,int4" as precisions, the most accurate first. Throws InvalidArgument for a name that is not
// known, given twice or out of order.
std::vector<Precision> parse_precisions(std::string_view list);

// Immutable.
class Variants {
 public:
  // Of a model's Transformer::variants(). `list` is what --variants says; empty: what the
  // checkpoint holds: bf16, or int8,int4 where experts are quantised. An expert gets those of the
  // listed precisions that it is held in, one that was left in bf16 that, whatever is listed.
  // `model` is the checkpoint's directory. Throws InvalidArgument where the checkpoint can't serve
  // the list, saying what to do.
  Variants(const std::vector<LayerVariants>& layers, std::string_view list,
           const std::string& model);

  // The list in its canonical form: "bf16", "int8,int4".
  const std::string& name() const { return name_; }
  // By layer number, a dense layer's empty; none at all where every expert runs as it is stored.
  std::span<const ExpertLayout> layouts() const { return layouts_; }
  // Null where every expert runs as it is stored.
  const ExpertLayout* layout(int layer) const {
    return layouts_.empty() ? nullptr : &layouts_[static_cast<size_t>(layer)];
  }
  // Whether some expert can be had in more than one precision.
  bool choice() const { return choice_; }

  PlanReads reads_of(int layer, const RoutingPlan& plan) const;
  // What `experts` experts are in the original bf16.
  double bf16_bytes(int layer, double experts) const {
    return experts * layers_[static_cast<size_t>(layer)].stored_bytes;
  }

  // Prices of every layer at those of an expert in bf16; see ExpertPrices::of_layout.
  std::vector<ExpertPrices> prices(int experts, float open_price, float slope_price) const;

 private:
  void check(const std::string& model) const;
  ExpertLayout layout_of(const LayerVariants& layer) const;

  std::vector<LayerVariants> layers_;
  std::vector<Precision> listed_;
  std::string name_;
  std::vector<ExpertLayout> layouts_;
  bool choice_ = false;
};

// "int8 62 %, int4 38 %" of shares by precision; what has none is left out.
std::string precisions_text(const std::array<double, kPrecisions>& fracs);

// The help of --variants.
extern const char* const kVariantsHelp;

}  // namespace thermoe::app
