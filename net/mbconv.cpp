#include "net/mbconv.h"

#include <algorithm>

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

size_t Mbconv::scratch() const {
  size_t floats = std::max(ops::dwconv_scratch(wide_shape(), config_.ksize),
                           ops::project_scratch(depthwise_.y.shape, config_.out));
  if (config_.expand) {
    const Shape& x = input_->y.shape;
    floats = std::max({floats, ops::conv1x1_forward_scratch(x, expanded_.y.shape),
                       ops::conv1x1_backward_scratch(x)});
  }
  return floats;
}

void Mbconv::plan(Plan& plan, Output& input) {
  input_ = &input;
  first_pass_ = plan.next_pass();
  depthwise_pass_ = config_.expand ? plan.next_pass() : first_pass_;
  project_pass_ = plan.next_pass();
  plan_forward(plan);
  if (plan.training()) plan_backward(plan);
}

void Mbconv::plan_forward(Plan& plan) {
  const BlockConfig& c = config_;
  const bool training = plan.training();
  const auto saved = [&](int pass, int last_forward) {
    return training ? plan.backward(pass) : last_forward;
  };
  const Shape& x = input_->y.shape;
  const int after = project_pass_ + 1;  // the next layer's first pass

  // The finished input is written where later passes need it: a residual connection adds it to the
  // output, and with a skip pending on it, it is too expensive to finish again in the backward
  // pass.
  const bool needed_again = training && input_->has_skip();
  if (c.residual || needed_again) {
    plan.add(name_ + ".x", x, first_pass_, needed_again ? plan.backward(first_pass_) : after,
             x_in_);
  }
  if (c.expand) {
    const Shape e = Shape::wide(x.n, x.h, x.w, c.expanded);
    plan.add(name_ + ".expand", e, first_pass_, saved(first_pass_, depthwise_pass_), expanded_.y);
    expand_cut_ = ops::conv1x1_forward_cut(x, e);
    expand_bn_->plan(plan);
    if (training) {
      plan.add_sums(name_ + ".expand.sums", expand_cut_.items(), e.padded_c(), first_pass_,
                    expand_sums_);
    }
  }
  const Shape d = ops::dwconv_output(wide_shape(), c.stride);
  plan.add(name_ + ".depthwise", d, depthwise_pass_, saved(depthwise_pass_, project_pass_),
           depthwise_.y);
  depthwise_cut_ = ops::dwconv_forward_cut(wide_shape(), c.ksize, c.stride);
  depthwise_bn_->plan(plan);
  if (training) {
    plan.add_sums(name_ + ".depthwise.sums", depthwise_cut_.lines.items(), d.padded_c(),
                  depthwise_pass_, depthwise_sums_);
  }
  const auto per_image = [&](const char* suffix, int channels, float*& target) {
    plan.add(name_ + suffix, static_cast<size_t>(d.n) * static_cast<size_t>(channels),
             project_pass_, saved(depthwise_pass_, project_pass_), target);
  };
  per_image(".pooled", d.padded_c(), pooled_);
  per_image(".gate", d.padded_c(), gate_);
  per_image(".reduced", c.reduced, u_);
  const Shape y = Shape::nhwc(d.n, d.h, d.w, c.out);
  plan.add(name_ + ".project", y, project_pass_, saved(project_pass_, after), output_.y);
  project_cut_ = ops::project_forward_cut(d, c.out);
  plan.add(name_ + ".pool", ops::pool_partial_size(d, project_cut_.pool, false), project_pass_,
           project_pass_, pool_partial_);
  project_bn_->plan(plan);
  if (training) {
    plan.add_sums(name_ + ".project.sums", project_cut_.product.items(), y.padded_c(),
                  project_pass_, project_sums_);
  }
  if (c.residual) {
    output_.skip.shape = x;
    plan.then([this] { output_.skip = x_in_; });
  }
}

void Mbconv::plan_backward(Plan& plan) {
  const BlockConfig& c = config_;
  const Shape& d = depthwise_.y.shape;
  const Shape& wide = wide_shape();
  const Shape& x = input_->y.shape;
  plan_backward_project(plan);

  const int pass = plan.backward(depthwise_pass_);
  depthwise_backward_cut_ = ops::dwconv_backward_cut(wide, c.ksize, c.stride);
  const int ranges = depthwise_backward_cut_.lines.items();
  const size_t filter = parameters_->packed(depthwise_w_).size();
  plan.add(name_ + ".depthwise.slots", filter * static_cast<size_t>(ranges), pass, pass,
           depthwise_slots_);
  plan.add(name_ + ".g", d, plan.backward(project_pass_), pass, g_);
  if (!c.expand) {
    plan.add_sums(name_ + ".dx.sums", ranges, x.padded_c(), pass, input_grad_sums_);
    return;
  }
  const int last = plan.backward(first_pass_);
  plan.add(name_ + ".dz.expand", wide, pass, last, expanded_.dz);
  plan.add_sums(name_ + ".dz.expand.sums", ranges, wide.padded_c(), pass, expand_grad_sums_);

  expand_backward_cut_ = ops::conv1x1_backward_cut(x, wide);
  const int slots = expand_backward_cut_.rows.items(), groups = expand_backward_cut_.channel_groups;
  const size_t weights = parameters_->packed(expand_w_).size();
  plan.add_sums(name_ + ".dx.sums", slots, x.padded_c(), last, input_grad_sums_);
  plan.add(name_ + ".expand.slots", weights * static_cast<size_t>(slots), last, last,
           expand_slots_);
  if (groups > 1)
    plan.add(name_ + ".dx.partial", x.size() * static_cast<size_t>(groups), last, last,
             dx_partial_);
  const size_t transposed =
      static_cast<size_t>(c.expanded) * static_cast<size_t>(round_up(c.in, kLane));
  plan.add(name_ + ".expand.wt", transposed, plan.first_backward(), last, expand_wt_);
}

void Mbconv::plan_backward_project(Plan& plan) {
  const BlockConfig& c = config_;
  const Shape& d = depthwise_.y.shape;
  const int pass = plan.backward(project_pass_), next = plan.backward(depthwise_pass_);
  // The next layer's first pass writes dz before; a residual connection reads it again at the end.
  plan.add(name_ + ".dz", output_.y.shape, pass - 1, c.residual ? plan.backward(first_pass_) : pass,
           output_.dz);
  project_backward_cut_ = ops::project_backward_cut(d, c.out);
  const ops::RowCut& rows = project_backward_cut_.rows;
  plan.add(name_ + ".gate.sums", ops::gate_sums_size(d, rows), pass, pass, gate_sums_);
  plan.add_sums(name_ + ".dz.depthwise.sums", 1, d.padded_c(), pass, depthwise_grad_sums_);
  const auto per_image = [&](const char* suffix, int channels, int last, float*& target) {
    plan.add(name_ + suffix, static_cast<size_t>(d.n) * static_cast<size_t>(channels), pass, last,
             target);
  };
  per_image(".dgate", d.padded_c(), pass, dgate_);
  per_image(".e", d.padded_c(), pass, e_);
  per_image(".offset", d.padded_c(), next, offset_);
  per_image(".du", c.reduced, pass, du_);
  per_image(".h", c.reduced, pass, h_);
  const size_t weights = parameters_->packed(project_w_).size();
  plan.add(name_ + ".project.slots", weights * static_cast<size_t>(rows.items()), pass, pass,
           project_slots_);
  const size_t transposed = static_cast<size_t>(c.out) * static_cast<size_t>(d.padded_c());
  plan.add(name_ + ".project.wt", transposed, plan.first_backward(), pass, project_wt_);
}

void Mbconv::append_transposes(std::vector<Transpose>& list) const {
  const BlockConfig& c = config_;
  if (c.expand) list.push_back({parameters_->packed(expand_w_), {expand_wt_, c.expanded, c.in}});
  list.push_back({parameters_->packed(project_w_), {project_wt_, c.out, c.expanded}});
}

void Mbconv::use_running_statistics() {
  if (expand_bn_) expand_bn_->use_running();
  depthwise_bn_->use_running();
  project_bn_->use_running();
}

ops::Deferred Mbconv::saved_input() const {
  if (!input_->skip) return input_->deferred();
  ops::Deferred x;
  x.y = x_in_;
  return x;
}

View<const float> Mbconv::skip_grad() const {
  return config_.residual ? View<const float>(output_.dz) : View<const float>{};
}

void Mbconv::forward(const ops::Context& context, bool training) {
  const auto sums = [&](const ops::ChannelSums& s) { return training ? s : ops::ChannelSums{}; };
  if (config_.expand) {
    const float* pivot = expand_bn_->vectors().running_mean;
    ops::conv1x1_forward(context, {input_->deferred(), x_in_, parameters_->packed(expand_w_),
                                   expanded_.y, pivot, sums(expand_sums_), expand_cut_});
    if (training) expand_bn_->forward(*context.workers, expanded_.y, expand_cut_, expand_sums_);
  }
  ops::dwconv_forward(
      context,
      {depthwise_source().deferred(), config_.expand ? View<float>{} : x_in_,
       parameters_->packed(depthwise_w_), depthwise_.y, depthwise_bn_->vectors().running_mean,
       sums(depthwise_sums_), config_.ksize, config_.stride, depthwise_cut_});
  if (training)
    depthwise_bn_->forward(*context.workers, depthwise_.y, depthwise_cut_.lines, depthwise_sums_);

  ops::ProjectForward project{};
  project.pool = {depthwise_.deferred(), pool_partial_, pooled_, nullptr, nullptr, nullptr,
                  project_cut_.pool};
  project.se = squeeze_excite();
  project.product = {depthwise_.deferred(),
                     {},
                     parameters_->packed(project_w_),
                     output_.y,
                     project_bn_->vectors().running_mean,
                     sums(project_sums_),
                     project_cut_.product};
  project.product.x.gate = gate_;
  ops::project_forward(context, project);
  if (training)
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
  args.sums = depthwise_grad_sums_;
  args.cut = project_backward_cut_.rows;
  args.channel_groups = project_backward_cut_.channel_groups;
  ops::project_backward(context, args);
  depthwise_bn_->backward(depthwise_grad_sums_, depthwise_.y.shape.rows());
}

void Mbconv::backward_depthwise(const ops::Context& context) {
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
    expand_bn_->backward(expand_grad_sums_, wide_shape().rows());
  } else {
    input_->batch_norm->backward(input_grad_sums_, wide_shape().rows());
  }
}

void Mbconv::backward_expand(const ops::Context& context) {
  ops::Conv1x1Backward args{};
  args.dy = expanded_.grad();
  args.x = saved_input();
  args.wt = {expand_wt_, config_.expanded, config_.in};
  args.dx = input_->input_grad(skip_grad(), input_grad_sums_);
  args.dw = parameters_->packed_gradient(expand_w_);
  args.dx_partial = dx_partial_;
  args.dw_slots = expand_slots_;
  args.cut = expand_backward_cut_.rows;
  args.channel_groups = expand_backward_cut_.channel_groups;
  ops::conv1x1_backward(context, args);
  input_->batch_norm->backward(input_grad_sums_, input_->y.shape.rows());
}

}  // namespace mbconv::net
