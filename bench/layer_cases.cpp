// The arguments of each pass, filled as the network fills them (net/mbconv.cpp,
// net/mbconv_infer.cpp, net/head.cpp, net/stem.cpp).

#include <algorithm>

#include "bench/case.h"
#include "ops/conv1x1.h"
#include "ops/dwconv.h"
#include "ops/inverted_residual.h"
#include "ops/pool.h"
#include "ops/project.h"
#include "ops/stem.h"

namespace mbconv::bench {
namespace {

Shape batch_of(Shape s, int n) {
  s.n = n;
  return s;
}

double macs(const Shape& rows, int64_t macs_a_row) {
  return static_cast<double>(rows.rows()) * static_cast<double>(macs_a_row);
}

// The input as backward passes read it: finished, where the forward pass kept it so.
ops::Deferred saved_input(Memory& memory, const Shape& s, const Layer& layer, bool kept) {
  if (!kept) return memory.deferred(s, layer);
  ops::Deferred x;
  x.y = memory.tensor(s);
  return x;
}

// The finished input is stored where later passes want it: the residual connection, or the backward
// pass.
View<float> finished_input(Memory& memory, const Shape& s, const Layer& layer, bool kept) {
  return kept || layer.residual ? memory.tensor(s) : View<float>{};
}

// Whether the backward pass of a 1x1 convolution wants its input finished.
bool keeps_input(const Layer& layer, const Shape& x, const Shape& y) {
  return layer.skip || (layer.norm && !ops::conv1x1_backward_cut(x, y).one_sweep());
}

float* slots(Memory& memory, const ops::Packed<float>& w, int items) {
  return memory.floats(w.size() * static_cast<size_t>(items));
}

// Of y: all of its gradient comes from the pool, so that it exists for images and channels only.
ops::DeferredGrad pooled_grad(Memory& memory, const Shape& y) {
  ops::DeferredGrad dy = memory.grad(y);
  dy.g = {};
  dy.offset = memory.per_image(y);
  dy.activation = ops::Activation::swish;
  return dy;
}

ops::SqueezeExcite squeeze_excite(Memory& memory, const Shape& x, const Layer& layer, float* mean,
                                  float* gate) {
  const auto weights = static_cast<size_t>(layer.reduced) * static_cast<size_t>(x.padded_c());
  const auto reduced = static_cast<size_t>(layer.reduced);
  ops::SqueezeExcite se{};
  se.channels = x.c;
  se.padded = x.padded_c();
  se.reduced = layer.reduced;
  se.activation = layer.activation;
  se.w1 = memory.floats(weights);
  se.b1 = memory.floats(reduced);
  se.w2 = memory.floats(weights);
  se.b2 = memory.vector(x);
  se.mean = mean;
  se.u = memory.floats(reduced * static_cast<size_t>(x.n));
  se.gate = gate;
  return se;
}

ops::SqueezeExciteBackward squeeze_excite_backward(Memory& memory, const Shape& x,
                                                   const Layer& layer, float* gate, float* dgate) {
  const auto weights = static_cast<size_t>(layer.reduced) * static_cast<size_t>(x.padded_c());
  const auto reduced = static_cast<size_t>(layer.reduced);
  ops::SqueezeExciteBackward se{};
  se.forward = squeeze_excite(memory, x, layer, memory.per_image(x), gate);
  se.dgate = dgate;
  se.e = memory.per_image(x);
  se.du = memory.floats(reduced * static_cast<size_t>(x.n));
  se.offset = memory.per_image(x);
  se.pixels = x.pixels();
  se.dw1 = memory.floats(weights);
  se.db1 = memory.floats(reduced);
  se.dw2 = memory.floats(weights);
  se.db2 = memory.vector(x);
  se.images = x.n;
  se.h = memory.floats(reduced * static_cast<size_t>(x.n));
  return se;
}

}  // namespace

Case stem_forward(const Layer& layer, int n) {
  Case c;
  Memory& memory = c.memory;
  const Shape y = batch_of(layer.y, n);
  ops::StemForward args{};
  args.x = memory.tensor(batch_of(layer.x, n)).data;
  args.h = layer.x.h;
  args.w = layer.x.w;
  args.filter = memory.matrix(ops::kStemDepth, y.c);
  args.y = memory.tensor(y);
  args.cut = ops::stem_cut(y);
  if (layer.inference) {
    args.finish = memory.finish(y, layer.activation);
  } else {
    args.pivot = memory.vector(y);
    args.sums = memory.sums(args.cut.items(), y);
  }
  c.run = [args](const ops::Context& context) { ops::stem_forward(context, args); };
  c.scratch = ops::stem_scratch(y);
  c.macs = macs(y, int64_t{ops::kStemDepth} * y.c);
  return c;
}

Case stem_backward(const Layer& layer, int n) {
  Case c;
  Memory& memory = c.memory;
  const Shape y = batch_of(layer.y, n);
  ops::StemBackward args{};
  args.x = memory.tensor(batch_of(layer.x, n)).data;
  args.h = layer.x.h;
  args.w = layer.x.w;
  args.dy = memory.grad(y);
  args.dfilter = memory.matrix(ops::kStemDepth, y.c);
  args.cut = ops::stem_cut(y);
  args.slots = slots(memory, args.dfilter, args.cut.items());
  c.run = [args](const ops::Context& context) { ops::stem_backward(context, args); };
  c.scratch = ops::stem_scratch(y);
  c.macs = macs(y, int64_t{ops::kStemDepth} * y.c);
  return c;
}

Case conv1x1_forward(const Layer& layer, int n) {
  Case c;
  Memory& memory = c.memory;
  const Shape x = batch_of(layer.x, n), y = batch_of(layer.y, n);
  ops::Conv1x1Forward args{};
  args.x = memory.deferred(x, layer);
  args.x_out = finished_input(memory, x, layer, keeps_input(layer, x, y));
  args.w = memory.matrix(x.c, y.c);
  args.y = memory.tensor(y);
  args.cut = ops::conv1x1_forward_cut(x, y);
  args.column_groups = ops::conv1x1_forward_column_groups(x, y);
  if (layer.inference) args.finish = memory.finish(y, layer.activation);
  if (layer.norm) {
    args.pivot = memory.vector(y);
    args.sums = memory.sums(args.cut.items(), y);
  }
  c.run = [args](const ops::Context& context) { ops::conv1x1_forward(context, args); };
  c.scratch = ops::conv1x1_forward_scratch(x, y);
  c.macs = macs(x, int64_t{x.c} * y.c);
  return c;
}

Case conv1x1_backward(const Layer& layer, int n) {
  Case c;
  Memory& memory = c.memory;
  const Shape x = batch_of(layer.x, n), y = batch_of(layer.y, n);
  const ops::Conv1x1BackwardCut cut = ops::conv1x1_backward_cut(x, y);
  ops::Conv1x1Backward args{};
  if (!layer.norm) {
    args.dy.g = memory.tensor(y);
  } else {
    args.dy = layer.pooled ? pooled_grad(memory, y) : memory.grad(y);
  }
  args.x = saved_input(memory, x, layer, keeps_input(layer, x, y));
  args.wt = memory.matrix(y.c, x.c);
  args.dx = memory.input_grad(args.x, layer, cut.rows.items());
  args.dw = memory.matrix(x.c, y.c);
  args.dw_slots = slots(memory, args.dw, cut.slots());
  args.finished_dy = memory.floats(y.size());
  args.cut = cut;
  c.run = [args](const ops::Context& context) { ops::conv1x1_backward(context, args); };
  c.scratch = ops::conv1x1_backward_scratch(x, y);
  c.macs = 2 * macs(x, int64_t{x.c} * y.c);
  return c;
}

Case dwconv_forward(const Layer& layer, int n) {
  Case c;
  Memory& memory = c.memory;
  const Shape x = batch_of(layer.x, n), y = batch_of(layer.y, n);
  const int taps = layer.ksize * layer.ksize;
  ops::DwconvForward args{};
  args.x = memory.deferred(x, layer);
  args.x_out = finished_input(memory, x, layer, layer.skip);
  args.w = memory.matrix(taps, x.c);
  args.y = memory.tensor(y);
  args.ksize = layer.ksize;
  args.stride = layer.stride;
  args.cut = ops::dwconv_forward_cut(x, layer.ksize, layer.stride);
  if (layer.norm) {
    args.pivot = memory.vector(y);
    args.sums = memory.sums(args.cut.lines.items(), y);
  }
  c.run = [args](const ops::Context& context) { ops::dwconv_forward(context, args); };
  c.scratch = ops::dwconv_scratch(x, layer.ksize);
  c.macs = macs(y, int64_t{taps} * x.c);
  return c;
}

Case dwconv_plain(const Layer& layer, int n) {
  Layer plain = layer;
  plain.norm = plain.skip = plain.residual = false;
  return dwconv_forward(plain, n);
}

Case dwconv_backward(const Layer& layer, int n) {
  Case c;
  Memory& memory = c.memory;
  const Shape x = batch_of(layer.x, n), y = batch_of(layer.y, n);
  const int taps = layer.ksize * layer.ksize;
  ops::DwconvBackward args{};
  args.dy = memory.grad(y);
  args.dy.gate = memory.per_image(y, 0.1f, 0.9f);
  args.dy.offset = memory.per_image(y);
  args.dy.activation = ops::Activation::swish;
  args.x = saved_input(memory, x, layer, layer.skip);
  args.w = memory.matrix(taps, x.c);
  args.cut = ops::dwconv_backward_cut(x, layer.ksize, layer.stride);
  args.dx = memory.input_grad(args.x, layer, args.cut.lines.items());
  args.dw = memory.matrix(taps, x.c);
  args.dw_slots = slots(memory, args.dw, args.cut.lines.items());
  args.ksize = layer.ksize;
  args.stride = layer.stride;
  c.run = [args](const ops::Context& context) { ops::dwconv_backward(context, args); };
  c.scratch = ops::dwconv_scratch(x, layer.ksize);
  c.macs = 2 * macs(y, int64_t{taps} * x.c);
  return c;
}

Case project_forward(const Layer& layer, int n) {
  Case c;
  Memory& memory = c.memory;
  const Shape x = batch_of(layer.x, n), y = batch_of(layer.y, n);
  const ops::ProjectForwardCut cut = ops::project_forward_cut(x, y.c);
  float* gate = memory.per_image(x, 0.1f, 0.9f);
  ops::ProjectForward args{};
  args.pool.x = memory.deferred(x, layer);
  args.pool.partial = memory.doubles(ops::pool_partial_size(x, cut.pool, false));
  args.pool.mean = memory.per_image(x);
  args.pool.cut = cut.pool;
  args.se = squeeze_excite(memory, x, layer, args.pool.mean, gate);
  args.product.x = args.pool.x;
  args.product.x.gate = gate;
  args.product.w = memory.matrix(x.c, y.c);
  args.product.y = memory.tensor(y);
  args.product.pivot = memory.vector(y);
  args.product.sums = memory.sums(cut.product.items(), y);
  args.product.cut = cut.product;
  c.run = [args](const ops::Context& context) { ops::project_forward(context, args); };
  c.scratch = ops::project_scratch(x, y.c, layer.reduced);
  c.macs = macs(x, int64_t{x.c} * y.c);
  return c;
}

Case project_backward(const Layer& layer, int n) {
  Case c;
  Memory& memory = c.memory;
  const Shape x = batch_of(layer.x, n), y = batch_of(layer.y, n);
  const ops::ProjectBackwardCut cut = ops::project_backward_cut(x, y.c);
  float* gate = memory.per_image(x, 0.1f, 0.9f);
  ops::ProjectBackward args{};
  args.dy = memory.grad(y);
  args.x = memory.deferred(x, layer);
  args.x.gate = gate;
  args.mean = memory.vector(x);
  args.invstd = memory.vector(x, 0.5f, 1.5f);
  args.wt = memory.matrix(y.c, x.c);
  args.g = memory.tensor(x);
  args.gate_sums = memory.floats(ops::gate_sums_size(x, cut.rows));
  args.dw = memory.matrix(x.c, y.c);
  args.dw_slots = slots(memory, args.dw, cut.rows.items());
  args.dgate = memory.per_image(x);
  args.finished_dy = memory.floats(y.size());
  args.se = squeeze_excite_backward(memory, x, layer, gate, args.dgate);
  args.sums = memory.sums(1, x);
  args.cut = cut.rows;
  args.channel_groups = cut.channel_groups;
  c.run = [args](const ops::Context& context) { ops::project_backward(context, args); };
  c.scratch = ops::project_scratch(x, y.c, layer.reduced);
  c.macs = 2 * macs(x, int64_t{x.c} * y.c);
  return c;
}

Case pool_forward(const Layer& layer, int n) {
  Case c;
  Memory& memory = c.memory;
  const Shape x = batch_of(layer.x, n);
  ops::Pool args{};
  args.x = memory.deferred(x, layer);
  args.cut = ops::pool_cut(x);
  args.partial = memory.doubles(ops::pool_partial_size(x, args.cut, !layer.inference));
  args.mean = memory.per_image(x);
  if (!layer.inference) {
    args.slopes = memory.doubles(size_t{2} * static_cast<size_t>(n * x.padded_c()));
    args.bn_mean = memory.vector(x);
    args.bn_invstd = memory.vector(x, 0.5f, 1.5f);
  }
  c.run = [args](const ops::Context& context) { ops::pool_forward(context, args); };
  return c;
}

Case inverted_residual_forward(const Layer& layer, int n) {
  Case c;
  Memory& memory = c.memory;
  const Shape x = batch_of(layer.x, n), wide = batch_of(layer.wide(), n), y = batch_of(layer.y, n);
  const Shape d = ops::inverted_residual_inside(wide, layer.stride);
  const View<const float> input = memory.tensor(x);
  const int taps = layer.ksize * layer.ksize, cin = layer.expanded > 0 ? x.c : 0;
  const ops::InvertedResidualCut cut =
      ops::inverted_residual_cut(wide, layer.ksize, layer.stride, y.c, cin);
  ops::InvertedResidual args{};
  ops::DwconvForward& depthwise = args.depthwise;
  depthwise.x.y = cin > 0 ? View<const float>{nullptr, wide} : input;
  if (cin > 0)
    depthwise.expand = {input, memory.matrix(cin, wide.c), memory.finish(wide, layer.activation)};
  depthwise.w = memory.matrix(taps, wide.c);
  depthwise.y = memory.tensor(d);
  depthwise.ksize = layer.ksize;
  depthwise.stride = layer.stride;
  depthwise.cut = cut.depthwise;
  depthwise.finish = memory.finish(d, layer.activation);
  depthwise.finish.cached = true;
  depthwise.pool_partial = memory.doubles(ops::pool_partial_size(d, cut.depthwise.lines, false));
  depthwise.pooled = memory.per_image(d);
  args.se = squeeze_excite(memory, d, layer, depthwise.pooled, memory.per_image(d));
  args.product.x.y = depthwise.y;
  args.product.x.gate = args.se.gate;
  args.product.w = memory.matrix(d.c, y.c);
  args.product.y = memory.tensor(y);
  args.product.cut = cut.product;
  args.product.column_groups = cut.column_groups;
  args.product.finish = memory.finish(y, ops::Activation::linear);
  if (layer.residual) args.product.finish.skip = input;
  args.staged = cut.staged;
  c.run = [args](const ops::Context& context) { ops::inverted_residual_forward(context, args); };
  c.scratch = ops::inverted_residual_scratch(wide, layer.ksize, layer.stride, y.c, layer.reduced);
  c.macs = macs(x, int64_t{cin} * wide.c) + macs(d, int64_t{wide.c} * (taps + y.c));
  return c;
}

}  // namespace mbconv::bench
