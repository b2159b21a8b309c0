// The memory of a block and the cost of its passes.

#include "net/mbconv.h"

#include <algorithm>

namespace mbconv::net {
size_t Mbconv::scratch() const {
  size_t floats =
      std::max({ops::dwconv_scratch(wide_shape(), config_.ksize),
                ops::project_scratch(depthwise_.y.shape, config_.out, config_.reduced),
                ops::inverted_residual_scratch(wide_shape(), config_.ksize, config_.stride,
                                               config_.out, config_.reduced)});
  if (config_.expand) {
    const Shape& x = input_->y.shape;
    floats = std::max({floats, ops::conv1x1_forward_scratch(x, expanded_.y.shape),
                       ops::conv1x1_backward_scratch(x, expanded_.y.shape)});
  }
  return floats;
}

void Mbconv::plan(Plan& plan, Output& input) {
  input_ = &input;
  first_pass_ = plan.next_pass();
  depthwise_pass_ = config_.expand ? plan.next_pass() : first_pass_;
  project_pass_ = plan.next_pass();
  plan_forward(plan);
  plan_inference(plan);
  if (plan.training()) {
    plan_sums(plan);
    plan_backward(plan);
    add_costs(plan);
  } else {
    add_inference_cost(plan);
  }
}

void Mbconv::plan_forward(Plan& plan) {
  const BlockConfig& c = config_;
  const bool training = plan.training();
  const auto saved = [&](int pass, int last_forward) {
    return training ? plan.backward(pass) : last_forward;
  };
  const Shape& x = input_->y.shape;
  const int after = project_pass_ + 1;  // the next layer's first pass

  if (c.expand) {
    const Shape e = Shape::wide(x.n, x.h, x.w, c.expanded);
    expanded_.y.shape = e;
    // Inference expands line by line.
    if (training)
      plan.add(name_ + ".expand", e, first_pass_, plan.backward(first_pass_), expanded_.y);
    expand_cut_ = ops::conv1x1_forward_cut(x, e);
    expand_bn_->plan(plan);
  }
  const Shape d = ops::dwconv_output(wide_shape(), c.stride);
  plan.add(name_ + ".depthwise", d, depthwise_pass_, saved(depthwise_pass_, project_pass_),
           depthwise_.y);
  depthwise_cut_ = ops::dwconv_forward_cut(wide_shape(), c.ksize, c.stride);
  inference_cut_ =
      ops::inverted_residual_cut(wide_shape(), c.ksize, c.stride, c.out, c.expand ? c.in : 0);
  depthwise_bn_->plan(plan);
  const auto per_image = [&](const char* suffix, int channels, float*& target) {
    plan.add(name_ + suffix, static_cast<size_t>(d.n) * static_cast<size_t>(channels),
             depthwise_pass_, saved(depthwise_pass_, project_pass_), target);
  };
  per_image(".pooled", d.padded_c(), pooled_);
  per_image(".gate", d.padded_c(), gate_);
  per_image(".reduced", c.reduced, u_);
  const Shape y = Shape::nhwc(d.n, d.h, d.w, c.out);
  output_.memory =
      plan.add(name_ + ".project", y, project_pass_, saved(project_pass_, after), output_.y);
  project_cut_ = ops::project_forward_cut(d, c.out);
  // Of the project pass in training, of the depthwise pass in inference.
  size_t partial = ops::pool_partial_size(d, inference_cut_.depthwise.lines, false);
  if (training) partial = std::max(partial, ops::pool_partial_size(d, project_cut_.pool, false));
  plan.add(name_ + ".pool", partial, depthwise_pass_, project_pass_, pool_partial_);
  project_bn_->plan(plan);
}

// What the forward passes of training write besides.
void Mbconv::plan_sums(Plan& plan) {
  // The finished input is written where later passes need it: a residual connection adds it to the
  // output, and it is too expensive to finish again in the backward pass with a skip pending on it,
  // or once for each group of filters.
  expand_backward_cut_ = ops::conv1x1_backward_cut(input_->y.shape, wide_shape());
  keeps_input_ = input_->has_skip() || (config_.expand && !expand_backward_cut_.one_sweep());
  if (config_.residual || keeps_input_) {
    plan.add(name_ + ".x", input_->y.shape, first_pass_,
             keeps_input_ ? plan.backward(first_pass_) : project_pass_ + 1, x_in_);
  }
  if (config_.residual) {
    output_.skip.shape = input_->y.shape;
    plan.then([this] { output_.skip = x_in_; });
  }
  if (config_.expand) {
    plan.add_sums(name_ + ".expand.sums", expand_cut_.items(), wide_shape().padded_c(), first_pass_,
                  expand_sums_);
  }
  plan.add_sums(name_ + ".depthwise.sums", depthwise_cut_.lines.items(),
                depthwise_.y.shape.padded_c(), depthwise_pass_, depthwise_sums_);
  plan.add_sums(name_ + ".project.sums", project_cut_.product.items(), output_.y.shape.padded_c(),
                project_pass_, project_sums_);
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

  const size_t weights = parameters_->packed(expand_w_).size();
  plan.add_sums(name_ + ".dx.sums", expand_backward_cut_.rows.items(), x.padded_c(), last,
                input_grad_sums_);
  plan.add(name_ + ".expand.slots", weights * static_cast<size_t>(expand_backward_cut_.slots()),
           last, last, expand_slots_);
  if (!expand_backward_cut_.one_sweep()) {
    plan.add(name_ + ".dy.expand", wide.size(), last, last, finished_expand_dy_);
  }
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
  if (project_backward_cut_.channel_groups > 1) {
    plan.add(name_ + ".dy", output_.y.shape.size(), pass, pass, finished_dy_);
  }
  const size_t weights = parameters_->packed(project_w_).size();
  plan.add(name_ + ".project.slots", weights * static_cast<size_t>(rows.items()), pass, pass,
           project_slots_);
  const size_t transposed = static_cast<size_t>(c.out) * static_cast<size_t>(d.padded_c());
  plan.add(name_ + ".project.wt", transposed, plan.first_backward(), pass, project_wt_);
}

Profile::Id Mbconv::add_cost(Plan& plan, const char* kind, double macs, double bytes,
                             const ops::RowCut& cut, const Shape& shape, int rows,
                             int units) const {
  return plan.profile().add({name_ + "." + kind, kind, macs, bytes, cut.items() * units,
                             ops::largest_share(cut, shape.n, rows) / units});
}

void Mbconv::add_costs(Plan& plan) {
  const BlockConfig& c = config_;
  const Shape &x = input_->y.shape, &wide = wide_shape(), &d = depthwise_.y.shape,
              &y = output_.y.shape;
  const int64_t expand = int64_t{c.in} * c.expanded, project = int64_t{c.expanded} * c.out;
  const int64_t taps = int64_t{c.ksize} * c.ksize * c.expanded;
  // Reading the block input: its raw tensor, the pending skip, and writing it where it is kept.
  const double input = bytes(x) * ((input_->has_skip() ? 2 : 1) + (x_in_.shape.n > 0 ? 1 : 0));
  const auto add = [&](const char* kind, double m, double b, const ops::RowCut& cut,
                       const Shape& shape, int rows,
                       int units) { return add_cost(plan, kind, m, b, cut, shape, rows, units); };
  const auto add_items = [&](const char* kind, double m, double b, int items, double share) {
    return plan.profile().add({name_ + "." + kind, kind, m, b, items, share});
  };
  if (c.expand) {
    cost_.expand = add("expand", macs(x, expand), input + bytes(wide), expand_cut_, x, x.pixels(),
                       ops::conv1x1_forward_column_groups(x, wide));
  }
  cost_.depthwise = add("depthwise", macs(d, taps), (c.expand ? bytes(wide) : input) + bytes(d),
                        depthwise_cut_.lines, d, d.h, depthwise_cut_.units);
  const ops::RowCut& product = project_cut_.product;
  cost_.project = add("project", macs(d, project), bytes(d) + bytes(y), product, d, d.pixels(), 1);
  const ops::ProjectBackwardCut& back = project_backward_cut_;
  cost_.project_backward =
      add_items("project backward", 2 * macs(d, project), 2 * bytes(d) + 2 * bytes(y),
                back.rows.items() * back.channel_groups, ops::largest_share(back, d));
  const double skip = c.residual ? bytes(x) : 0;
  const double input_grad = 2 * bytes(x) + skip;  // dz written, y and the skip's gradient read
  cost_.depthwise_backward =
      add("depthwise backward", 2 * macs(d, taps),
          2 * bytes(d) + (c.expand ? 2 * bytes(wide) : bytes(x) + input_grad),
          depthwise_backward_cut_.lines, wide, wide.h, depthwise_backward_cut_.units);
  if (!c.expand) return;
  const ops::Conv1x1BackwardCut& cut = expand_backward_cut_;
  // dw also writes the dy that dx reads.
  const double dy = (cut.one_sweep() ? 2 : 4) * bytes(wide);
  cost_.expand_backward =
      add_items("expand backward", 2 * macs(x, expand), dy + bytes(x) + input_grad, cut.items(),
                ops::largest_share(cut, x, wide));
}

}  // namespace mbconv::net
