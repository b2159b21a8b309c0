#pragma once

#include <cstddef>
#include <span>

#include "ops/context.h"
#include "ops/cut.h"
#include "ops/deferred.h"
#include "ops/packed.h"
#include "ops/pool.h"
#include "ops/variant.h"

namespace mbconv::ops {

// Depthwise K x K convolution, K = 3 or 5, stride S = 1 or 2, TensorFlow's SAME padding, no bias:
//   y[n,i,j,c] = sum over r, t of x[n, i S - top + r, j S - left + t, c] w[r,t,c].
// Filters are Packed matrices of K * K rows and C columns.

// How a depthwise pass is cut: ranges of image lines (RowCut with lines for rows), times units of
// at most kWideBlock channels. A range is a slot of the sums.
struct DwconvCut {
  RowCut lines;
  int units = 1;
};

// The expand convolution in front of a depthwise one, done line by line as that one needs them, so
// that the wide tensor between them never crosses memory: x = f(v w + bias).
struct DwconvExpand {
  View<const float> v;    // [N,H,W,Cin] finished, NHWC
  Packed<const float> w;  // [Cin,C]
  Finish finish;          // without skip

  MBCONV_INLINE explicit operator bool() const { return static_cast<bool>(v); }
};
// Lines of x that are expanded at once: about a tile of a matrix product.
MBCONV_INLINE constexpr int dwconv_expand_lines(const Shape& x) {
  const int lines = kTileRows / x.w < x.h ? kTileRows / x.w : x.h;
  return lines > 1 ? lines : 1;
}

struct DwconvForward {
  Deferred x;             // [N,H,W,C]; of it only the shape with `expand`
  View<float> x_out;      // [N,H,W,C] out: the finished x, if later passes want it; or empty
  Packed<const float> w;  // [K*K,C]
  View<float> y;          // [N,OH,OW,C] out, raw, blocks as x, or NHWC, as `finish` says
  const float* pivot;     // [C] what is subtracted before summing
  ChannelSums sums;       // out: of y - pivot and its square, a slot for each line range; or empty
  int ksize, stride;
  DwconvCut cut;             // over output lines
  DwconvExpand expand = {};  // where x comes from, if not from memory
  Finish finish = {};        // instead of sums
  // With `finish`, the global average pool of y as well (see ops/pool.h); or null.
  double* pool_partial = nullptr;  // [N * cut.lines.parts][C] work
  float* pooled = nullptr;         // [N,C] out
};

Shape dwconv_output(const Shape& x, int stride);
// With `expand_cin` channels in front of an expand convolution; 0: there is none.
DwconvCut dwconv_forward_cut(const Shape& x, int ksize, int stride, int expand_cin = 0);
// Floats of scratch memory a worker needs, for either direction.
size_t dwconv_scratch(const Shape& x, int ksize);
// Overwrites y, x_out, sums and pooled. Parallel over the cut. Throws Error if shapes do not fit
// together.
void dwconv_forward(const Context& context, const DwconvForward& args);

// For passes that run its items themselves: the checks, and the pool to be joined after the items
// of an image group.
void check_dwconv_forward(const DwconvForward& args);
Pool dwconv_pool(const DwconvForward& args);

// Both gradients in one sweep: dx (as dx.dz, see InputGrad) and dw.
struct DwconvBackward {
  DeferredGrad dy;        // [N,OH,OW,C]
  Deferred x;             // [N,H,W,C], without gate and skip; dx.activation is its activation
  Packed<const float> w;  // [K*K,C]
  InputGrad dx;           // [N,H,W,C] out, through a batch norm
  Packed<float> dw;       // [K*K,C] accumulated
  float* dw_slots;        // [cut.lines.items()][K*K,C] work
  int ksize, stride;
  DwconvCut cut;  // over input lines
};

DwconvCut dwconv_backward_cut(const Shape& x, int ksize, int stride);
// Overwrites dx.dz and dx.sums, accumulates dw. Parallel over the cut.
void dwconv_backward(const Context& context, const DwconvBackward& args);

// One work item: a line range and a channel unit.
using DwconvForwardItem = void(const DwconvForward& args, int slot, int unit, float* scratch);
using DwconvBackwardItem = void(const DwconvBackward& args, int slot, int unit, float* scratch);

std::span<const Variant<DwconvForwardItem>> dwconv_forward_variants();
std::span<const Variant<DwconvBackwardItem>> dwconv_backward_variants();

}  // namespace mbconv::ops
