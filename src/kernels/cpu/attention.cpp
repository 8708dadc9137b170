#include "kernels/cpu/attention.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h: they need its macros.
#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/stored-inl.h"

HWY_BEFORE_NAMESPACE();
namespace thermoe::cpu::HWY_NAMESPACE {

constexpr int kTile = 4;  // query heads per pass over a block

// Vectors per tile: with few rows more of them, for independent accumulators.
template <int R>
constexpr int vectors_per_tile() {
  return R <= 2 && hn::MaxLanes(Floats()) <= 8 ? 4 : 2;
}

// scores[r][t] = q[r] . key[t] for the `blocks` key blocks from `keys` on.
template <int R>
void score_tile(const float* const* q, const float* keys, int64_t head_dim, int64_t blocks,
                float* scores) {
  const Floats d;
  constexpr int kVectors = vectors_per_tile<R>();
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t t = 0; t < kKeyBlock; t += kVectors * lanes) {
      const float* from = keys + b * kKeyBlock * head_dim + t;
      Vector sum[R * kVectors];
      HWY_UNROLL(16)
      for (int i = 0; i < R * kVectors; ++i) sum[i] = hn::Zero(d);
      for (int64_t c = 0; c < head_dim; ++c) {
        Vector key[kVectors];
        HWY_UNROLL(16)
        for (int v = 0; v < kVectors; ++v) key[v] = hn::LoadU(d, from + c * kKeyBlock + v * lanes);
        HWY_UNROLL(16)
        for (int r = 0; r < R; ++r) {
          const Vector query = hn::Set(d, q[r][c]);
          HWY_UNROLL(16)
          for (int v = 0; v < kVectors; ++v)
            sum[r * kVectors + v] = hn::MulAdd(query, key[v], sum[r * kVectors + v]);
        }
      }
      HWY_UNROLL(16)
      for (int r = 0; r < R; ++r) {
        float* to = scores + r * kPositionBlock + b * kKeyBlock + t;
        HWY_UNROLL(16)
        for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[r * kVectors + v], d, to + v * lanes);
      }
    }
  }
}

// sum[r] += p[r] V over `count` positions.
template <int R>
void value_tile(const float* p, const float* values, int64_t stride, int64_t count,
                float* const* sums) {
  const Floats d;
  constexpr int kVectors = vectors_per_tile<R>();
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < stride; c += kVectors * lanes) {
    Vector sum[R * kVectors];
    HWY_UNROLL(16)
    for (int r = 0; r < R; ++r) {
      HWY_UNROLL(16)
      for (int v = 0; v < kVectors; ++v)
        sum[r * kVectors + v] = hn::LoadU(d, sums[r] + c + v * lanes);
    }
    for (int64_t t = 0; t < count; ++t) {
      Vector value[kVectors];
      HWY_UNROLL(16)
      for (int v = 0; v < kVectors; ++v)
        value[v] = hn::LoadU(d, values + t * stride + c + v * lanes);
      HWY_UNROLL(16)
      for (int r = 0; r < R; ++r) {
        const Vector weight = hn::Set(d, p[r * kPositionBlock + t]);
        HWY_UNROLL(16)
        for (int v = 0; v < kVectors; ++v)
          sum[r * kVectors + v] = hn::MulAdd(weight, value[v], sum[r * kVectors + v]);
      }
    }
    HWY_UNROLL(16)
    for (int r = 0; r < R; ++r) {
      HWY_UNROLL(16)
      for (int v = 0; v < kVectors; ++v)
        hn::StoreU(sum[r * kVectors + v], d, sums[r] + c + v * lanes);
    }
  }
}

// What one query head has seen so far.
struct Running {
  float most;  // the largest scaled score
  float mass;  // sum of exp(score - most)
};

// Turns one block's scores into exp(score * scale - most), zero from `valid` on, and rescales what
// was summed before to the new `most`.
void update_softmax(float* scores, int64_t valid, float scale, Running& running, float* sum,
                    int64_t stride) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  std::fill(scores + valid, scores + kPositionBlock, -std::numeric_limits<float>::infinity());
  const Vector scales = hn::Set(d, scale);
  const int64_t end = (valid + lanes - 1) / lanes * lanes;
  Vector mosts = hn::Set(d, running.most);
  for (int64_t t = 0; t < end; t += lanes) {
    const Vector scaled = hn::Mul(hn::LoadU(d, scores + t), scales);
    hn::StoreU(scaled, d, scores + t);
    mosts = hn::Max(mosts, scaled);
  }
  const float most = hn::GetLane(hn::MaxOfLanes(d, mosts));
  const Vector shift = hn::Set(d, most);
  Vector mass = hn::Zero(d);
  for (int64_t t = 0; t < end; t += lanes) {
    const Vector score = hn::LoadU(d, scores + t);
    // hn::Exp gives 0 for NaN: keep the NaN, so that damage shows.
    const Vector p = hn::IfThenElse(hn::Eq(score, score), hn::Exp(d, hn::Sub(score, shift)), score);
    hn::StoreU(p, d, scores + t);
    mass = hn::Add(mass, p);
  }
  std::fill(scores + end, scores + kPositionBlock, 0.0f);
  const float keep = hn::GetLane(
      hn::Exp(hn::CappedTag<float, 1>(), hn::Set(hn::CappedTag<float, 1>(), running.most - most)));
  running.mass = running.mass * keep + hn::GetLane(hn::SumOfLanes(d, mass));
  running.most = most;
  if (keep == 1.0f) return;
  const Vector keeps = hn::Set(d, keep);
  for (int64_t c = 0; c < stride; c += lanes)
    hn::StoreU(hn::Mul(hn::LoadU(d, sum + c), keeps), d, sum + c);
}

template <int R>
void attend_tile(const AttentionCall& call, int64_t head, int64_t block, Running* running,
                 float* sums, float* scores) {
  const int64_t stride = value_stride(call.head_dim);
  const float* q[R];
  float* sum[R];
  int64_t valid[R], most = 0;
  for (int r = 0; r < R; ++r) {
    const int32_t row = call.rows[static_cast<size_t>((head + r) / call.group)];
    q[r] = call.queries + row * call.row_stride + (head + r) % call.group * call.head_dim;
    sum[r] = sums + (head + r) * stride;
    valid[r] = std::clamp<int64_t>(call.positions[row] + 1 - block, 0, kPositionBlock);
    most = std::max(most, valid[r]);
  }
  if (most == 0) return;
  score_tile<R>(q, call.keys + block * call.head_dim, call.head_dim,
                (most + kKeyBlock - 1) / kKeyBlock, scores);
  for (int r = 0; r < R; ++r) {
    if (valid[r] > 0)
      update_softmax(scores + r * kPositionBlock, valid[r], call.scale, running[head + r], sum[r],
                     stride);
    else
      std::fill_n(scores + r * kPositionBlock, kPositionBlock, 0.0f);
  }
  value_tile<R>(scores, call.values + block * stride, stride, most, sum);
}

void attend(const AttentionCall& call, float* scratch) {
  const int64_t stride = value_stride(call.head_dim);
  const int64_t heads = static_cast<int64_t>(call.rows.size()) * call.group;
  float* scores = scratch;
  float* sums = scores + kTile * kPositionBlock;
  Running* running = reinterpret_cast<Running*>(sums + heads * stride);
  std::fill_n(sums, heads * stride, 0.0f);
  std::fill_n(running, heads, Running{-std::numeric_limits<float>::infinity(), 0.0f});
  const int64_t end = call.positions[call.rows.back()] + 1;
  for (int64_t block = 0; block < end; block += kPositionBlock) {
    for (int64_t head = 0; head < heads; head += kTile) {
      switch (std::min<int64_t>(kTile, heads - head)) {
        case 1:
          attend_tile<1>(call, head, block, running, sums, scores);
          break;
        case 2:
          attend_tile<2>(call, head, block, running, sums, scores);
          break;
        case 3:
          attend_tile<3>(call, head, block, running, sums, scores);
          break;
        default:
          attend_tile<kTile>(call, head, block, running, sums, scores);
      }
    }
  }
  for (int64_t head = 0; head < heads; ++head) {
    const int32_t row = call.rows[static_cast<size_t>(head / call.group)];
    float* to = call.out + row * call.row_stride + head % call.group * call.head_dim;
    const float share = 1.0f / running[head].mass;
    for (int64_t c = 0; c < call.head_dim; ++c) to[c] = sums[head * stride + c] * share;
  }
}

}  // namespace thermoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thermoe::cpu {
HWY_EXPORT(attend);

void attend(const AttentionCall& call, float* scratch) {
  HWY_DYNAMIC_DISPATCH(attend)(call, scratch);
}

size_t attention_scratch_floats(int64_t rows, int group, int64_t head_dim) {
  // scores of a tile; per head its sum, its largest score and its mass.
  return static_cast<size_t>(4 * kPositionBlock + rows * group * (value_stride(head_dim) + 2));
}

void store_key_value(const float* key, const float* value, int64_t head_dim, int64_t position,
                     float* keys, float* values) {
  float* to = keys + position / kKeyBlock * kKeyBlock * head_dim + position % kKeyBlock;
  for (int64_t c = 0; c < head_dim; ++c) to[c * kKeyBlock] = key[c];
  std::copy_n(value, head_dim, values + position * value_stride(head_dim));
}
}  // namespace thermoe::cpu
#endif
