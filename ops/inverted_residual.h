#pragma once

#include "ops/conv1x1.h"
#include "ops/dwconv.h"
#include "ops/squeeze_excite.h"

namespace mbconv::ops {

// A block in inference (MobileNetV2's inverted residual, with squeeze-excite): the depthwise
// convolution, with the expand convolution in front where `depthwise.expand` says so,
// squeeze-excite and the project convolution,
//   d[n,p,c] finished,  pooled[n,c] its mean,  y[n,p,o] = sum over c of d[n,p,c] gate[n,c] w[c,o]
// finished. Image groups go through all of it one after the other without a barrier between them,
// so that d is read while it is in cache.
struct InvertedResidual {
  DwconvForward depthwise;  // [N,OH,OW,C] out: d, finished, and pooled
  SqueezeExcite se;         // [N,C]: se.mean is depthwise.pooled
  Conv1x1Forward product;   // [N,OH,OW,Cout] out; product.x: d with gate se.gate
  bool staged = false;      // by image groups, the same in both cuts; else pass by pass
};

// The shape of d, NHWC: the product reads its rows where they are. As many elements as
// dwconv_output().
Shape inverted_residual_inside(const Shape& x, int stride);

struct InvertedResidualCut {
  DwconvCut depthwise;
  RowCut product;
  int column_groups = 1;
  bool staged = false;  // both are cut into the same image groups, more than one
};
// x [N,H,W,C] is the depthwise convolution's input, from an expand convolution of `expand_cin`
// channels if that is not 0.
InvertedResidualCut inverted_residual_cut(const Shape& x, int ksize, int stride, int cout,
                                          int expand_cin);
// Floats of scratch memory a worker needs.
size_t inverted_residual_scratch(const Shape& x, int ksize, int stride, int cout, int reduced);
// Overwrites d, pooled, se.u, se.gate and y. Staged: parallel over image groups, and within each
// over lines and channel units, then over rows and column groups. Else three passes, each parallel
// over its own cut: where all images make one group, squeeze-excite is cut too.
void inverted_residual_forward(const Context& context, const InvertedResidual& args);

}  // namespace mbconv::ops
