#pragma once

#include <cstddef>
#include <span>

#include "lib/tensor.h"
#include "ops/activation.h"
#include "ops/context.h"
#include "ops/variant.h"

namespace mbconv::ops {

// Squeeze-excite (Hu, Shen & Sun 2018) on pooled features m[n,c], R reduced channels:
//   u[n,r] = b1[r] + sum over c of w1[r,c] m[n,c],   h = f(u)
//   gate[n,c] = sigmoid(b2[c] + sum over r of h[n,r] w2[r,c])
// Both weights are [R][padded C] with zero padding.
struct SqueezeExcite {
  int channels, padded;   // C and its padded size
  int reduced;            // R
  Activation activation;  // f
  const float *w1, *b1;   // [R,C], [R]
  const float *w2, *b2;   // [R,C], [C]
  const float* mean;      // [N,C] in
  float* u;               // [N,R] out; saved for the backward pass
  float* gate;            // [N,C] out
};

// Gradients for one image, from dgate[n,c] (the gradient of the loss with respect to the gate):
//   e = dgate gate (1 - gate),  du = f'(u) (w2 e),  offset = (w1^T du) / pixels
// where `offset` is the gradient that reaches every pixel through the mean.
struct SqueezeExciteBackward {
  SqueezeExcite forward;
  const float* dgate;  // [N,C]
  float* e;            // [N,C] out
  float* du;           // [N,R] out
  float* offset;       // [N,C] out
  int pixels;          // H W
  float *dw1, *db1;    // [R,C], [R] accumulated
  float *dw2, *db2;    // [R,C], [C] accumulated
  int images;          // N
  float* h;            // [N,R] work
};

// Images [first, first + count): overwrites rows [r0, r1) of u. Weights are read once for a few
// images, so that many at a time are cheaper.
using SqueezeExciteReduce = void(const SqueezeExcite& args, int first, int count, int r0, int r1);
// After u: overwrites channels [c0, c1) of gate, multiples of kLane. `scratch`:
// squeeze_excite_scratch floats.
using SqueezeExciteGate = void(const SqueezeExcite& args, int first, int count, int c0, int c1,
                               float* scratch);
// The same images: overwrites e, du, offset and h.
using SqueezeExciteBackwardInput = void(const SqueezeExciteBackward& args, int first, int count);
// One channel unit of kWideBlock: dw1 += du^T m, dw2 += h^T e, db2 += sum of e; unit 0 also
// db1 += sum of du. Images are added in order.
using SqueezeExciteBackwardFilter = void(const SqueezeExciteBackward& args, int unit);

std::span<const Variant<SqueezeExciteReduce>> squeeze_excite_reduce_variants();
std::span<const Variant<SqueezeExciteGate>> squeeze_excite_gate_variants();
std::span<const Variant<SqueezeExciteBackwardInput>> squeeze_excite_backward_input_variants();
std::span<const Variant<SqueezeExciteBackwardFilter>> squeeze_excite_backward_filter_variants();

// Images that are worked on together.
inline constexpr int kSqueezeExciteImages = 4;
constexpr size_t squeeze_excite_scratch(int reduced) {
  return static_cast<size_t>(kSqueezeExciteImages * round_up(reduced, kLane));
}

// The first two for `images` images: overwrites u and gate. Parallel over groups of
// kSqueezeExciteImages images, over the rows of u and then over channels.
void squeeze_excite_forward(const Context& context, const SqueezeExcite& args, int images);

// Both of images [first, first + count), for passes that go on with a group of images at once.
void squeeze_excite_group(const Context& context, const SqueezeExcite& args, int first, int count,
                          int worker);

// The filter gradients of all units, in parallel.
void squeeze_excite_backward_filter(const Context& context, const SqueezeExciteBackward& args);

}  // namespace mbconv::ops
