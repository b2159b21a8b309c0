#pragma once

#include <cstddef>
#include <span>

#include "ops/context.h"
#include "ops/cut.h"
#include "ops/deferred.h"
#include "ops/packed.h"
#include "ops/variant.h"

namespace mbconv::ops {

// 1x1 convolution without bias: y[r,o] = sum over i of x[r,i] w[i,o] for each pixel r. Used for the
// expand, project and head convolutions and the classifier.
struct Conv1x1Forward {
  Deferred x;             // [N,H,W,Cin]
  View<float> x_out;      // [N,H,W,Cin] out: the finished x, if later passes want it; or empty
  Packed<const float> w;  // [Cin,Cout]
  View<float> y;          // [N,H,W,Cout] out, raw or as `finish` says
  const float* pivot;     // [Cout] what is subtracted before summing
  ChannelSums sums;       // out: of y - pivot and its square, a slot for each item; or empty
  RowCut cut;
  int column_groups = 1;  // of w's column panels
  Finish finish = {};     // instead of sums
};

RowCut conv1x1_forward_cut(const Shape& x, const Shape& y);
// Where there are too few rows to feed many threads, columns are cut as well.
int conv1x1_forward_column_groups(const Shape& x, const Shape& y);
// Whether an item of whole or part of one image multiplies the gate of an x that is finished but
// for it into a copy of w, and not into x: where w is smaller than the image and fits into a core's
// cache, and the image is so large that it makes a group of its own (ops/inverted_residual.cpp), or
// its bits would depend on its neighbours in the batch.
inline constexpr int kMinGatedRows = 2 * kTileRows;
MBCONV_INLINE constexpr bool gates_weights(const Shape& x, const Packed<const float>& w) {
  constexpr size_t kMaxWeights = size_t{96} << 10;
  return x.blocks() == 1 && x.pixels() >= kMinGatedRows && w.padded_n() <= x.pixels() &&
         w.size() <= kMaxWeights;
}
// Floats of scratch memory a worker needs; `gated`: x is finished but for a gate.
size_t conv1x1_forward_scratch(const Shape& x, const Shape& y, bool gated = false);
// Overwrites y, x_out and sums. Parallel over row ranges and column groups. Throws Error if shapes
// do not fit together.
void conv1x1_forward(const Context& context, const Conv1x1Forward& args);
// Its checks, for passes that run its items themselves.
void check_conv1x1_forward(const Conv1x1Forward& args);

// How a backward pass is cut. Where there are many rows for the size of w, one sweep over dy yields
// both gradients, each row range filling a slot of dw. Elsewhere there would be few ranges, or more
// memory in slots than in dy, and dw comes first, by its column panels and few ranges of rows,
// leaving dy behind, finished; then dx, by rows and column panels.
struct Conv1x1BackwardCut {
  RowCut rows;            // of dx, and of dw in one sweep
  int column_groups = 1;  // of dx's column panels; one in one sweep
  RowCut filter_rows = {};
  int filter_groups = 0;  // of dw's column panels; 0: one sweep
  int filter_depths = 1;  // ranges of dw's rows, each of which forms dy for itself

  MBCONV_INLINE constexpr bool one_sweep() const { return filter_groups == 0; }
  MBCONV_INLINE constexpr int slots() const {
    return one_sweep() ? rows.items() : filter_rows.items();
  }
  MBCONV_INLINE constexpr int input_items() const { return rows.items() * column_groups; }
  MBCONV_INLINE constexpr int filter_items() const {
    return filter_rows.items() * filter_groups * filter_depths;
  }
  // Of the half that has fewer.
  MBCONV_INLINE constexpr int items() const {
    return one_sweep() ? input_items() : std::min(input_items(), filter_items());
  }
};

// Both gradients:
//   dx[r,i] = sum over o of dy[r,o] w[i,o],   dw[i,o] += sum over r of x[r,i] dy[r,o].
struct Conv1x1Backward {
  DeferredGrad dy;         // [N,H,W,Cout]
  Deferred x;              // [N,H,W,Cin], NHWC
  Packed<const float> wt;  // [Cout,Cin], the transpose of w; unused without dx
  InputGrad dx;            // [N,H,W,Cin] out; or empty
  Packed<float> dw;        // [Cin,Cout] accumulated
  float* dw_slots;         // [cut.slots()][Cin,Cout] work; unused if there is one
  float* finished_dy;      // [N,H,W,Cout] work, NHWC: what dx reads after dw; unused in one sweep
                           // and where dy goes through no batch norm, which is NHWC itself then
  Conv1x1BackwardCut cut;
};

// Its finished_dy as a tensor.
MBCONV_INLINE View<float> finished_dy(const Conv1x1Backward& args) {
  const Shape& dy = args.dy.shape();
  return {args.finished_dy, Shape::nhwc(dy.n, dy.h, dy.w, dy.c)};
}

Conv1x1BackwardCut conv1x1_backward_cut(const Shape& x, const Shape& dy);
// The share that the largest item has of the pass or of the half it is in.
double largest_share(const Conv1x1BackwardCut& cut, const Shape& x, const Shape& dy);
size_t conv1x1_backward_scratch(const Shape& x, const Shape& dy);
// Overwrites dx.dz, finished_dy and dx.sums (a slot for each range of cut.rows), accumulates dw.
// Parallel over the items of the cut. Without dx only in one sweep.
void conv1x1_backward(const Context& context, const Conv1x1Backward& args);

// One work item of a pass. `slot` is the row range, `group` the column group.
using Conv1x1ForwardItem = void(const Conv1x1Forward& args, int slot, int group, float* scratch);
// Items of dw, if it is for itself, come before those of dx.
using Conv1x1BackwardItem = void(const Conv1x1Backward& args, int item, float* scratch);

std::span<const Variant<Conv1x1ForwardItem>> conv1x1_forward_variants();
// Of the pass that finishes x once for several column groups.
std::span<const Variant<Conv1x1ForwardItem>> conv1x1_finish_input_variants();
std::span<const Variant<Conv1x1BackwardItem>> conv1x1_backward_variants();

// dw[size] += slots[0] + ... + slots[count - 1], arrays of `size` floats that follow each other,
// added in this order. Parallel over elements.
void add_slots(Workers& workers, const float* slots, int count, size_t size, float* dw);

}  // namespace mbconv::ops
