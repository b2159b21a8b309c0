#pragma once

#include <cstddef>
#include <span>

#include "ops/context.h"
#include "ops/cut.h"
#include "ops/deferred.h"
#include "ops/packed.h"
#include "ops/variant.h"

namespace mbconv::ops {

// The stem: 3x3 convolution of stride 2 over RGB pictures, TensorFlow's SAME padding, no bias, as a
// matrix product of depth 27 over tiles gathered from the picture (im2col):
//   y[n,i,j,o] = sum over r, t, c of x[n, 2i - top + r, 2j - left + t, c] w[(r 3 + t) 3 + c, o].
inline constexpr int kStemDepth = 27;

struct StemForward {
  const float* x;              // [N,H,W,3], dense
  int h, w;                    // H, W
  Packed<const float> filter;  // [27,Cout]
  View<float> y;               // [N,OH,OW,Cout] out, raw or as `finish` says, NHWC
  const float* pivot;          // [Cout] what is subtracted before summing
  ChannelSums sums;            // out: of y - pivot and its square, a slot for each item; or empty
  RowCut cut;                  // over the rows of y
  Finish finish = {};          // instead of sums
};

// NHWC output shape for pictures of h x w.
Shape stem_output(int n, int h, int w, int channels);
RowCut stem_cut(const Shape& y);
// Floats of scratch memory a worker needs, for either direction.
size_t stem_scratch(const Shape& y);
// Overwrites y and sums. Parallel over the cut. Throws Error if shapes do not fit together.
void stem_forward(const Context& context, const StemForward& args);

// dw[k,o] += sum over pixels of im2col(x)[k] dy[o]. There is no gradient for the picture.
struct StemBackward {
  const float* x;  // [N,H,W,3]
  int h, w;
  DeferredGrad dy;        // [N,OH,OW,Cout]
  Packed<float> dfilter;  // [27,Cout] accumulated
  float* slots;           // [cut.items()][27,Cout] work; unused if cut.items() = 1
  RowCut cut;
};
void stem_backward(const Context& context, const StemBackward& args);

using StemForwardItem = void(const StemForward& args, int slot, float* scratch);
using StemBackwardItem = void(const StemBackward& args, int slot, float* scratch);

std::span<const Variant<StemForwardItem>> stem_forward_variants();
std::span<const Variant<StemBackwardItem>> stem_backward_variants();

}  // namespace mbconv::ops
