// The passes of a block in inference: batch norms are folded into the weights, every tensor is
// stored finished.

#include <algorithm>

#include "net/mbconv.h"

namespace mbconv::net {

void Mbconv::append_folded(std::vector<const FoldedWeights*>& list) const {
  if (config_.expand) list.push_back(&expand_folded_);
  list.push_back(&depthwise_folded_);
  list.push_back(&project_folded_);
}

// What only these passes need: the tensors are those of training, which live longer there.
void Mbconv::plan_inference(Plan& plan) {
  if (config_.expand)
    expand_folded_.plan(plan, name_ + ".expand", parameters_->packed(expand_w_), *expand_bn_);
  depthwise_folded_.plan(plan, name_ + ".depthwise", parameters_->packed(depthwise_w_),
                         *depthwise_bn_);
  project_folded_.plan(plan, name_ + ".project", parameters_->packed(project_w_), *project_bn_);
  // Images go through the whole block without a barrier: while some write the output, others read
  // the input.
  plan.keep(input_->memory, project_pass_);
}

void Mbconv::add_inference_cost(Plan& plan) {
  const BlockConfig& c = config_;
  const Shape &x = input_->y.shape, &d = depthwise_.y.shape, &y = output_.y.shape;
  const double expand = c.expand ? macs(x, int64_t{c.in} * c.expanded) : 0;
  const double taps = macs(d, int64_t{c.ksize} * c.ksize * c.expanded);
  const double project = macs(d, int64_t{c.expanded} * c.out);
  const double moved = bytes(x) + 2 * bytes(d) + bytes(y) + (c.residual ? bytes(x) : 0);
  const ops::DwconvCut& cut = inference_cut_.depthwise;
  cost_.block =
      add_cost(plan, "block", expand + taps + project, moved, cut.lines, d, d.h, cut.units);
}

void Mbconv::infer(const ops::Context& context) {
  const Profile::Scope scope(context.profile, cost_.block);
  ops::InvertedResidual args{};
  ops::DwconvForward& depthwise = args.depthwise;
  depthwise.x = depthwise_source().finished();
  if (config_.expand)
    depthwise.expand = {input_->y, expand_folded_.w(), expand_folded_.finish(activation_)};
  depthwise.w = depthwise_folded_.w();
  depthwise.y = {depthwise_.y.data, ops::inverted_residual_inside(wide_shape(), config_.stride)};
  depthwise.ksize = config_.ksize;
  depthwise.stride = config_.stride;
  depthwise.cut = inference_cut_.depthwise;
  depthwise.finish = depthwise_folded_.finish(activation_);
  depthwise.finish.cached = true;
  depthwise.pool_partial = pool_partial_;
  depthwise.pooled = pooled_;
  args.se = squeeze_excite();
  ops::Conv1x1Forward& product = args.product;
  product.x.y = depthwise.y;
  product.x.gate = gate_;
  product.w = project_folded_.w();
  product.y = output_.y;
  product.cut = inference_cut_.product;
  product.column_groups = inference_cut_.column_groups;
  product.finish =
      project_folded_.finish(ops::Activation::linear,
                             config_.residual ? View<const float>(input_->y) : View<const float>{});
  args.staged = inference_cut_.staged;
  ops::inverted_residual_forward(context, args);
}

}  // namespace mbconv::net
