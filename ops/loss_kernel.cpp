// Softmax cross-entropy at one ISA level: see ops/simd.h.

#include "ops/loss.h"

#include "ops/epilogue.h"

namespace mbconv::ops::MBCONV_LEVEL {

LossItem loss;

namespace {

constexpr int kMaxTerms = 256;

template <class Combine>
inline float reduce(const float* values, int count, float start, const Combine& combine) {
  V all(start);
  for (int i = 0; i < count; i += kWidth) all = combine(all, load(values + i));
  float lanes[kWidth];
  store(lanes, all);
  V result(start);
  for (const float lane : lanes) result = combine(result, V(lane));
  store(lanes, result);
  return lanes[0];
}

}  // namespace

void loss(const Loss& args, int n, float* scratch) {
  const Shape& shape = args.logits.shape;
  const int classes = shape.c, padded = shape.padded_c();
  const float* logits = args.logits.pixel(n, 0, 0);
  float* z = scratch;
  double sum_z = 0;
  for (int k = 0; k < padded; k += kWidth) store(z + k, load(logits + k) + load(args.bias + k));
  const int label = args.labels[n];
  const float target = z[label];
  for (int k = 0; k < classes; ++k) sum_z += z[k];
  int rank = 0;  // negated comparisons: NaN counts
  for (int k = 0; k < label; ++k) rank += !(z[k] < target);
  for (int k = label + 1; k < classes; ++k) rank += !(z[k] <= target);
  for (int k = classes; k < padded; ++k) z[k] = z[0];
  const float largest = reduce(z, padded, z[0], [](V a, V b) { return max(a, b); });
  for (int k = 0; k < padded; k += kWidth) store(z + k, exp_minus(V(largest) - load(z + k)));
  clear(z + classes, padded - classes);
  double exact_sum = 0;  // fp32 over at most kMaxTerms classes, fp64 above
  for (int k = 0; k < padded; k += kMaxTerms) {
    const int terms = padded - k < kMaxTerms ? padded - k : kMaxTerms;
    exact_sum += reduce(z + k, terms, 0.0f, [](V a, V b) { return a + b; });
  }
  const float sum = static_cast<float>(exact_sum);

  args.rank[n] = rank;
  // largest + log(sum) - (1 - s) z[label] - s / K * sum of z, finished outside of this level's
  // code.
  args.loss[n] =
      double{largest} - (1.0 - args.smoothing) * target - args.smoothing / classes * sum_z;
  scratch[padded] = sum;
  if (!args.dlogits) return;
  float* dz = args.dlogits.pixel(n, 0, 0);
  const float share = args.smoothing / static_cast<float>(classes);
  const float per_image = 1.0f / static_cast<float>(shape.n);
  for (int k = 0; k < padded; k += kWidth) {
    store(dz + k, (load(z + k) / V(sum) - V(share)) * V(per_image));
  }
  dz[label] -= (1.0f - args.smoothing) * per_image;
  clear(dz + classes, padded - classes);
}

}  // namespace mbconv::ops::MBCONV_LEVEL
