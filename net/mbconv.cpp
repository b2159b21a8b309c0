#include "net/mbconv.h"

namespace mbconv::net {

Mbconv::Mbconv(const BlockConfig& config, ops::Activation activation, Parameters& parameters)
    : config_(config),
      activation_(activation),
      name_("blocks." + std::to_string(config.stage) + "." + std::to_string(config.index)),
      parameters_(&parameters) {
  const BlockConfig& c = config_;
  // timm's names: without an expand convolution the batch norms count from the depthwise one and
  // the projection is called conv_pw.
  int bn = 1;
  const auto batch_norm = [&](int channels) {
    return std::make_unique<BatchNormLayer>(name_ + ".bn" + std::to_string(bn++), channels,
                                            parameters);
  };
  const auto conv = [&](const std::string& suffix, int out, int in, Layout layout,
                        Initial initial) {
    return parameters.add(name_ + suffix, {out, in, 1, 1}, layout, initial, true, true);
  };
  const auto bias = [&](const std::string& suffix, int size) {
    return parameters.add(name_ + suffix, {size}, Layout::vector, Initial::zero);
  };
  if (c.expand) {
    expand_w_ = conv(".conv_pw.weight", c.expanded, c.in, Layout::conv1x1, Initial::he_normal);
    expand_bn_ = batch_norm(c.expanded);
  }
  depthwise_w_ = parameters.add(name_ + ".conv_dw.weight", {c.expanded, 1, c.ksize, c.ksize},
                                Layout::depthwise, Initial::he_uniform, true, true);
  depthwise_bn_ = batch_norm(c.expanded);
  reduce_w_ =
      conv(".se.conv_reduce.weight", c.reduced, c.expanded, Layout::rows, Initial::he_normal);
  reduce_b_ = bias(".se.conv_reduce.bias", c.reduced);
  gate_w_ = conv(".se.conv_expand.weight", c.expanded, c.reduced, Layout::rows_of_transpose,
                 Initial::he_normal);
  gate_b_ = bias(".se.conv_expand.bias", c.expanded);
  project_w_ = conv(c.expand ? ".conv_pwl.weight" : ".conv_pw.weight", c.out, c.expanded,
                    Layout::conv1x1, Initial::he_normal);
  project_bn_ = batch_norm(c.out);
  expanded_.batch_norm = expand_bn_.get();
  expanded_.activation = activation;
  depthwise_.batch_norm = depthwise_bn_.get();
  depthwise_.activation = activation;
  output_.batch_norm = project_bn_.get();
}

void Mbconv::append_transposes(std::vector<Transpose>& list) const {
  const BlockConfig& c = config_;
  if (c.expand)
    append_transpose(list, parameters_->packed(expand_w_), {expand_wt_, c.expanded, c.in});
  append_transpose(list, parameters_->packed(project_w_), {project_wt_, c.out, c.expanded});
}

ops::Deferred Mbconv::saved_input() const {
  if (!keeps_input_) return input_->deferred();
  ops::Deferred x;
  x.y = x_in_;
  return x;
}

View<const float> Mbconv::skip_grad() const {
  return config_.residual ? View<const float>(output_.dz) : View<const float>{};
}

void Mbconv::forward(const ops::Context& context) {
  if (config_.expand) forward_expand(context);
  forward_depthwise(context);
  forward_project(context);
}

void Mbconv::forward_expand(const ops::Context& context) {
  const Profile::Scope scope(context.profile, cost_.expand);
  ops::conv1x1_forward(context,
                       {input_->deferred(), x_in_, parameters_->packed(expand_w_), expanded_.y,
                        expand_bn_->vectors().running_mean, expand_sums_, expand_cut_,
                        ops::conv1x1_forward_column_groups(input_->y.shape, expanded_.y.shape)});
  expand_bn_->forward(*context.workers, expanded_.y, expand_cut_, expand_sums_);
}

void Mbconv::forward_depthwise(const ops::Context& context) {
  const Profile::Scope scope(context.profile, cost_.depthwise);
  ops::DwconvForward args{};
  args.x = depthwise_source().deferred();
  if (!config_.expand) args.x_out = x_in_;
  args.w = parameters_->packed(depthwise_w_);
  args.y = depthwise_.y;
  args.pivot = depthwise_bn_->vectors().running_mean;
  args.sums = depthwise_sums_;
  args.ksize = config_.ksize;
  args.stride = config_.stride;
  args.cut = depthwise_cut_;
  ops::dwconv_forward(context, args);
  depthwise_bn_->forward(*context.workers, depthwise_.y, depthwise_cut_.lines, depthwise_sums_);
}

void Mbconv::forward_project(const ops::Context& context) {
  const Profile::Scope scope(context.profile, cost_.project);
  ops::ProjectForward args{};
  args.pool.x = depthwise_.deferred();
  args.pool.partial = pool_partial_;
  args.pool.mean = pooled_;
  args.pool.cut = project_cut_.pool;
  args.se = squeeze_excite();
  args.product.x = depthwise_.deferred();
  args.product.x.gate = gate_;
  args.product.w = parameters_->packed(project_w_);
  args.product.y = output_.y;
  args.product.pivot = project_bn_->vectors().running_mean;
  args.product.sums = project_sums_;
  args.product.cut = project_cut_.product;
  ops::project_forward(context, args);
  project_bn_->forward(*context.workers, output_.y, project_cut_.product, project_sums_);
}

ops::SqueezeExcite Mbconv::squeeze_excite() const {
  return {config_.expanded,
          depthwise_.y.shape.padded_c(),
          config_.reduced,
          activation_,
          parameters_->w(reduce_w_),
          parameters_->w(reduce_b_),
          parameters_->w(gate_w_),
          parameters_->w(gate_b_),
          pooled_,
          u_,
          gate_};
}

void Mbconv::backward(const ops::Context& context) {
  backward_project(context);
  backward_depthwise(context);
  if (config_.expand) backward_expand(context);
}

void Mbconv::backward_project(const ops::Context& context) {
  const Profile::Scope scope(context.profile, cost_.project_backward);
  const ops::BatchNorm& bn = depthwise_bn_->vectors();
  ops::ProjectBackward args{};
  args.dy = output_.grad();
  args.x = depthwise_.deferred();
  args.x.gate = gate_;
  args.mean = bn.mean;
  args.invstd = bn.invstd;
  args.wt = {project_wt_, config_.out, config_.expanded};
  args.g = g_;
  args.gate_sums = gate_sums_;
  args.dw = parameters_->packed_gradient(project_w_);
  args.dw_slots = project_slots_;
  args.se = {squeeze_excite(),
             dgate_,
             e_,
             du_,
             offset_,
             depthwise_.y.shape.pixels(),
             parameters_->g(reduce_w_),
             parameters_->g(reduce_b_),
             parameters_->g(gate_w_),
             parameters_->g(gate_b_),
             depthwise_.y.shape.n,
             h_};
  args.dgate = dgate_;
  args.finished_dy = finished_dy_;
  args.sums = depthwise_grad_sums_;
  args.cut = project_backward_cut_.rows;
  args.channel_groups = project_backward_cut_.channel_groups;
  ops::project_backward(context, args);
  depthwise_bn_->backward(*context.workers, depthwise_grad_sums_, depthwise_.y.shape.rows());
}

void Mbconv::backward_depthwise(const ops::Context& context) {
  const Profile::Scope scope(context.profile, cost_.depthwise_backward);
  const ops::BatchNorm& bn = depthwise_bn_->vectors();
  ops::DwconvBackward args{};
  args.dy = {g_,          gate_,   offset_, depthwise_.y, bn.scale, bn.shift,
             activation_, bn.mean, bn.a,    bn.b,         bn.d};
  args.x = config_.expand ? expanded_.deferred() : saved_input();
  args.w = parameters_->packed(depthwise_w_);
  args.dx = config_.expand ? expanded_.input_grad({}, expand_grad_sums_)
                           : input_->input_grad(skip_grad(), input_grad_sums_);
  args.dw = parameters_->packed_gradient(depthwise_w_);
  args.dw_slots = depthwise_slots_;
  args.ksize = config_.ksize;
  args.stride = config_.stride;
  args.cut = depthwise_backward_cut_;
  ops::dwconv_backward(context, args);
  if (config_.expand) {
    expand_bn_->backward(*context.workers, expand_grad_sums_, wide_shape().rows());
  } else {
    input_->batch_norm->backward(*context.workers, input_grad_sums_, wide_shape().rows());
  }
}

void Mbconv::backward_expand(const ops::Context& context) {
  const Profile::Scope scope(context.profile, cost_.expand_backward);
  ops::Conv1x1Backward args{};
  args.dy = expanded_.grad();
  args.x = saved_input();
  args.wt = {expand_wt_, config_.expanded, config_.in};
  args.dx = input_->input_grad(skip_grad(), input_grad_sums_);
  args.dw = parameters_->packed_gradient(expand_w_);
  args.dw_slots = expand_slots_;
  args.finished_dy = finished_expand_dy_;
  args.cut = expand_backward_cut_;
  ops::conv1x1_backward(context, args);
  input_->batch_norm->backward(*context.workers, input_grad_sums_, input_->y.shape.rows());
}

}  // namespace mbconv::net
