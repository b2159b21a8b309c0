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
// Floats of scratch memory a worker needs.
size_t conv1x1_forward_scratch(const Shape& x, const Shape& y);
// Overwrites y, x_out and sums. Parallel over row ranges and column groups. Throws Error if shapes
// do not fit together.
void conv1x1_forward(const Context& context, const Conv1x1Forward& args);
// Its checks, for passes that run its items themselves.
void check_conv1x1_forward(const Conv1x1Forward& args);

// Both gradients in one sweep over dy:
//   dx[r,i] = sum over o of dy[r,o] w[i,o],   dw[i,o] += sum over r of x[r,i] dy[r,o].
struct Conv1x1Backward {
  DeferredGrad dy;         // [N,H,W,Cout]
  Deferred x;              // [N,H,W,Cin], NHWC
  Packed<const float> wt;  // [Cout,Cin], the transpose of w; unused without dx
  InputGrad dx;            // [N,H,W,Cin] out; or empty
  Packed<float> dw;        // [Cin,Cout] accumulated
  float* dx_partial;       // [channel_groups][N,H,W,Cin] work; unused if channel_groups = 1
  float* dw_slots;         // [cut.items()][Cin,Cout] work; unused if cut.items() = 1
  RowCut cut;
  int channel_groups;  // of dy's channel panels
};

struct Conv1x1BackwardCut {
  RowCut rows;
  int channel_groups;
};
Conv1x1BackwardCut conv1x1_backward_cut(const Shape& x, const Shape& dy);
size_t conv1x1_backward_scratch(const Shape& x);
// Overwrites dx.dz and dx.sums (a slot for each row range), accumulates dw. Parallel over row
// ranges and channel groups.
void conv1x1_backward(const Context& context, const Conv1x1Backward& args);

// One work item of a pass. `slot` is the row range, `group` the column or channel group.
using Conv1x1ForwardItem = void(const Conv1x1Forward& args, int slot, int group, float* scratch);
using Conv1x1BackwardItem = void(const Conv1x1Backward& args, int slot, int group, float* scratch);

std::span<const Variant<Conv1x1ForwardItem>> conv1x1_forward_variants();
std::span<const Variant<Conv1x1BackwardItem>> conv1x1_backward_variants();

// dw += the sum of `slots` arrays of `count` floats each, in ascending order of the slots. Parallel
// over elements.
void add_slots(Workers& workers, const float* slots, int count, size_t size, float* dw);

}  // namespace mbconv::ops
