#include "variants.h"

#include <fmt/format.h>

#include <algorithm>

#include "thermoe/error.h"

namespace thermoe::app {
namespace {

bool any(const std::vector<LayerVariants>& layers, std::vector<uint8_t> LayerVariants::*held) {
  return std::any_of(layers.begin(), layers.end(), [held](const LayerVariants& layer) {
    return std::count(((layer).*held).begin(), ((layer).*held).end(), 1) > 0;
  });
}

bool held(const LayerVariants& layer, Precision precision, size_t expert) {
  switch (precision) {
    case Precision::kInt8:
    case Precision::kInt4:
      return layer.quantized[expert] != 0;
    case Precision::kFp8:
      return !layer.fp8.empty() && layer.fp8[expert] != 0;
    case Precision::kStored:
      break;
  }
  return layer.stored[expert] != 0;
}

// An expert that is in no listed form though others are.
bool left_alone(const LayerVariants& layer, const std::vector<Precision>& listed, size_t expert) {
  return std::none_of(listed.begin(), listed.end(),
                      [&](Precision precision) { return held(layer, precision, expert); });
}

// How accurate the precisions are, the most accurate first.
int rank_of(Precision precision) {
  constexpr Precision kByAccuracy[] = {Precision::kStored, Precision::kInt8, Precision::kFp8,
                                       Precision::kInt4};
  return static_cast<int>(std::find(std::begin(kByAccuracy), std::end(kByAccuracy), precision) -
                          std::begin(kByAccuracy));
}

bool nested(Precision precision) {
  return precision == Precision::kInt8 || precision == Precision::kInt4;
}

double bytes_of(const LayerVariants& layer, Precision precision) {
  switch (precision) {
    case Precision::kInt8:
      return layer.int8_bytes;
    case Precision::kInt4:
      return layer.int4_bytes;
    case Precision::kFp8:
      return layer.fp8_bytes;
    case Precision::kStored:
      break;
  }
  return layer.stored_bytes;
}

// Of bf16's time for a token's arithmetic: e4m3 products run at twice the rate, and what is around
// them does not get faster (docs/gpu-kernels.md).
float compute_frac(Precision precision) { return precision == Precision::kFp8 ? 0.6f : 1.0f; }

float error_of(const LayerVariants& layer, Precision precision, size_t expert) {
  constexpr float kMost = 0.999f;  // an error of 1 or more: as good as left out
  if (precision == Precision::kStored) return 0;
  if (precision == Precision::kFp8) return std::min(kMost, layer.fp8_error_frac);
  const auto& errors =
      precision == Precision::kInt8 ? layer.int8_error_frac : layer.int4_error_frac;
  return std::min(kMost, errors[expert]);
}

}  // namespace

const char* const kVariantsHelp =
    "precisions that experts may run in, the most accurate first: bf16, int8, fp8 (on a GPU), int4 "
    "or several of them with commas; default: bf16 of a plain checkpoint, int8,int4 of a quantised "
    "one";

std::vector<Precision> parse_precisions(std::string_view list) {
  std::vector<Precision> precisions;
  while (true) {
    const std::string_view name = list.substr(0, list.find(','));
    const auto known = std::find(kPrecisionNames.begin(), kPrecisionNames.end(), name);
    if (known == kPrecisionNames.end())
      throw InvalidArgument(
          fmt::format("--variants: '{}' is unknown: known are {}", name,
                      fmt::join(kPrecisionNames.begin(), kPrecisionNames.end(), ", ")));
    const auto precision = static_cast<Precision>(known - kPrecisionNames.begin());
    if (!precisions.empty() && rank_of(precision) <= rank_of(precisions.back()))
      throw InvalidArgument(
          fmt::format("--variants: {} {}", name,
                      precision == precisions.back()
                          ? "is given twice"
                          : "stands behind a less accurate one: give the most accurate first"));
    precisions.push_back(precision);
    if (name.size() == list.size()) return precisions;
    list.remove_prefix(name.size() + 1);
  }
}

std::string precisions_text(const std::array<double, kPrecisions>& fracs) {
  std::string text;
  for (size_t p = 0; p < fracs.size(); ++p)
    if (fracs[p] > 0)
      text += fmt::format("{}{} {:.0f} %", text.empty() ? "" : ", ", kPrecisionNames[p],
                          100 * fracs[p]);
  return text;
}

Variants::Variants(const std::vector<LayerVariants>& layers, std::string_view list,
                   const std::string& model)
    : layers_(layers) {
  const bool quantized = any(layers, &LayerVariants::quantized);
  listed_ = parse_precisions(!list.empty() ? list : quantized ? "int8,int4" : "bf16");
  for (const Precision precision : listed_)
    name_ +=
        (name_.empty() ? "" : ",") + std::string(kPrecisionNames[static_cast<size_t>(precision)]);
  check(model);
  if (listed_ == std::vector{Precision::kStored}) return;
  for (const LayerVariants& layer : layers) {
    layouts_.push_back(layer.stored.empty() ? ExpertLayout{} : layout_of(layer));
    choice_ = choice_ || !layouts_.back().one_each();
  }
}

void Variants::check(const std::string& model) const {
  const bool stored = any(layers_, &LayerVariants::stored);
  const bool quantized = any(layers_, &LayerVariants::quantized);
  if (std::count(listed_.begin(), listed_.end(), Precision::kFp8) > 0 &&
      std::none_of(layers_.begin(), layers_.end(),
                   [](const LayerVariants& layer) { return !layer.fp8.empty(); }))
    throw InvalidArgument(fmt::format(
        "--variants {}: fp8 runs with --device cuda alone, on a GPU of compute capability 9.0 and "
        "a checkpoint that holds experts in bf16",
        name_));
  if (std::any_of(listed_.begin(), listed_.end(), nested) && !quantized)
    throw InvalidArgument(
        fmt::format("--variants {}: {} holds its experts in bf16 only: make a quantised checkpoint "
                    "with thermoe quantize --model {} --out DIR",
                    name_, model, model));
  const bool only_stored = listed_ == std::vector{Precision::kStored};
  const bool all_stored = std::all_of(layers_.begin(), layers_.end(), [](const auto& layer) {
    return std::count(layer.stored.begin(), layer.stored.end(), 0) == 0;
  });
  if (listed_.front() == Precision::kStored && (only_stored ? !all_stored : !stored))
    throw InvalidArgument(fmt::format(
        "--variants {}: {} holds {}experts in int8 and int4 only: give those, or the checkpoint "
        "that it was quantised from",
        name_, model, stored ? "some " : ""));
}

ExpertLayout Variants::layout_of(const LayerVariants& layer) const {
  std::vector<Precision> precisions = listed_;
  bool kept = false;
  for (size_t e = 0; e < layer.stored.size(); ++e) kept = kept || left_alone(layer, listed_, e);
  if (kept && precisions.front() != Precision::kStored)
    precisions.insert(precisions.begin(), Precision::kStored);
  std::vector<ExpertVariant> variants;
  variants.reserve(precisions.size());
  for (const Precision precision : precisions)
    variants.push_back(
        {.name = kPrecisionNames[static_cast<size_t>(precision)],
         .error_frac = 0,
         .read_frac = static_cast<float>(bytes_of(layer, precision) / layer.stored_bytes),
         .compute_frac = compute_frac(precision)});
  std::vector<ExpertInstance> instances;
  for (size_t e = 0; e < layer.stored.size(); ++e)
    for (size_t v = 0; v < precisions.size(); ++v) {
      const bool listed = std::find(listed_.begin(), listed_.end(), precisions[v]) != listed_.end();
      if (held(layer, precisions[v], e) && (listed || left_alone(layer, listed_, e)))
        instances.push_back({static_cast<int32_t>(e), static_cast<int32_t>(v), 0});
    }
  ExpertLayout layout = ExpertLayout::of_instances(static_cast<int>(layer.stored.size()), 1,
                                                   std::move(variants), std::move(instances));
  for (const ExpertInstance& i : layout.instances)
    layout.error_frac.push_back(
        error_of(layer, precisions[static_cast<size_t>(i.variant)], static_cast<size_t>(i.expert)));
  return layout;
}

PlanReads Variants::reads_of(int layer, const RoutingPlan& plan) const {
  const LayerVariants& held = layers_[static_cast<size_t>(layer)];
  PlanReads reads;
  const ExpertLayout* own = layout(layer);
  if (own == nullptr) {
    reads.opened[0] = reads.bf16_experts = plan.report.distinct_experts;
    reads.bytes = reads.bf16_experts * held.stored_bytes;
    return reads;
  }
  for (int i = 0; i < own->count(); ++i)
    if (plan.load(i) > 0)
      ++reads.opened[static_cast<size_t>(precision_of(own->variant_of(i).name))];
  for (size_t p = 0; p < reads.opened.size(); ++p)
    reads.bytes += reads.opened[p] * bytes_of(held, static_cast<Precision>(p));
  reads.bf16_experts = reads.bytes / held.stored_bytes;
  return reads;
}

std::vector<ExpertPrices> Variants::prices(int experts, float open_price, float slope_price) const {
  std::vector<ExpertPrices> prices(layers_.size());
  for (size_t l = 0; l < prices.size(); ++l) {
    const ExpertLayout* own = layout(static_cast<int>(l));
    prices[l] = own == nullptr ? ExpertPrices::uniform(experts, open_price, slope_price)
                               : ExpertPrices::of_layout(*own, open_price, slope_price);
  }
  return prices;
}

}  // namespace thermoe::app
