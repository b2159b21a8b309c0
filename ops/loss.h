#pragma once

#include <cstdint>
#include <span>

#include "ops/context.h"
#include "ops/deferred.h"
#include "ops/variant.h"

namespace mbconv::ops {

// Softmax cross-entropy with label smoothing s (Szegedy et al. 2016, section 7) over K classes:
//   z = logits + bias, target t = (1 - s) onehot(label) + s / K
//   loss[n] = log(sum over k of exp z[n,k]) - sum over k of t[k] z[n,k]
//   dlogits[n,k] = (softmax(z[n])[k] - t[k]) / N
//   rank[n] = number of classes k before the label with z[k] >= z[label] and after it with
//             z[k] > z[label]: of equal logits the first ranks first, as in argmax. A comparison
//             with NaN counts against the label.
struct Loss {
  View<const float> logits;  // [N,1,1,K], without bias
  const float* bias;         // [K], padded
  const int32_t* labels;     // [N], in [0, K)
  float smoothing;
  View<float> dlogits;  // [N,1,1,K] out; or empty
  float* dbias;         // [K] accumulated: the sum of dlogits over the images; with dlogits
  double* loss;         // [N] out
  int32_t* rank;        // [N] out: the label's place, from 0, among the classes by falling logit
};

// Overwrites dlogits, loss and rank, accumulates dbias. Parallel over images. Throws Error if a
// label lies outside [0, K).
void loss_forward(const Context& context, const Loss& args);

// One image; scratch: padded K floats and one more, where it leaves the sum of exp(z - largest);
// the logarithm of that is still to be added to loss[n].
using LossItem = void(const Loss& args, int n, float* scratch);
std::span<const Variant<LossItem>> loss_variants();

}  // namespace mbconv::ops
