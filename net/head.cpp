#include "net/head.h"

#include <algorithm>

#include "lib/error.h"
#include "ops/dropout.h"

namespace mbconv::net {

Head::Head(const NetworkConfig& config, Parameters& parameters)
    : channels_(config.head_channels),
      classes_(config.model.classes),
      dropout_(config.model.dropout),
      parameters_(&parameters),
      w_(parameters.add("conv_head.weight", {channels_, config.blocks.back().out, 1, 1},
                        Layout::conv1x1, Initial::he_normal, true, true)),
      bn_("bn2", channels_, parameters),
      classifier_w_(parameters.add("classifier.weight", {classes_, channels_}, Layout::conv1x1,
                                   Initial::glorot_uniform)),
      classifier_b_(parameters.add("classifier.bias", {classes_}, Layout::vector, Initial::zero)) {
  conv_.batch_norm = &bn_;
  conv_.activation = config.model.activation;
}

size_t Head::scratch() const {
  const Shape& x = input_->y.shape;
  return std::max({ops::conv1x1_forward_scratch(x, conv_.y.shape),
                   ops::conv1x1_backward_scratch(x, conv_.y.shape),
                   ops::conv1x1_forward_scratch(features_.shape, logits_.shape),
                   ops::conv1x1_backward_scratch(features_.shape, logits_.shape),
                   static_cast<size_t>(logits_.shape.padded_c() + kLane)});
}

void Head::plan(Plan& plan, Output& input) {
  input_ = &input;
  conv_pass_ = plan.next_pass();
  pool_pass_ = plan.next_pass();
  plan_forward(plan);
  if (plan.training()) plan_backward(plan);
  add_costs(plan);
}

void Head::plan_forward(Plan& plan) {
  const bool training = plan.training();
  const Shape& x = input_->y.shape;
  const Shape y = Shape::nhwc(x.n, x.h, x.w, channels_);
  // As in Mbconv::plan_sums.
  conv_backward_cut_ = ops::conv1x1_backward_cut(x, y);
  if (training && (input_->has_skip() || !conv_backward_cut_.one_sweep())) {
    plan.add("head.x", x, conv_pass_, plan.backward(conv_pass_), x_in_);
  }
  plan.add("head", y, conv_pass_, training ? plan.backward(conv_pass_) : pool_pass_, conv_.y);
  conv_cut_ = ops::conv1x1_forward_cut(x, y);
  bn_.plan(plan);
  folded_.plan(plan, "head", parameters_->packed(w_), bn_);
  if (training) plan.add_sums("head.sums", conv_cut_.items(), y.padded_c(), conv_pass_, conv_sums_);

  // The small tensors after the pool live until the end: logits are asked for after a pass.
  const int end = plan.end();
  const size_t features = static_cast<size_t>(x.n) * static_cast<size_t>(y.padded_c());
  pool_cut_ = ops::pool_cut(y);
  plan.add("head.pool", ops::pool_partial_size(y, pool_cut_, training), pool_pass_, pool_pass_,
           pool_partial_);
  plan.add("features", Shape::nhwc(x.n, 1, 1, channels_), pool_pass_, end, features_);
  plan.add("logits", Shape::nhwc(x.n, 1, 1, classes_), pool_pass_, end, logits_);
  plan.add("loss", static_cast<size_t>(x.n), pool_pass_, end, losses_);
  plan.add("rank", static_cast<size_t>(x.n), pool_pass_, end, ranks_);
  classifier_cut_ = ops::conv1x1_forward_cut(features_.shape, logits_.shape);
  if (!training) return;
  plan.add("head.pooled", features, pool_pass_, pool_pass_, pooled_);
  plan.add("head.slopes", 2 * features, pool_pass_, plan.backward(conv_pass_), slopes_);
  plan.add("dropout.mask", features, pool_pass_, plan.backward(pool_pass_), mask_);
}

void Head::plan_backward(Plan& plan) {
  const Shape& x = input_->y.shape;
  const Shape& y = conv_.y.shape;
  const int first = plan.backward(pool_pass_), last = plan.backward(conv_pass_);
  const auto slots = [](const ops::Packed<float>& w, const ops::Conv1x1BackwardCut& cut) {
    return w.size() * static_cast<size_t>(cut.slots());
  };
  plan.add("dlogits", logits_.shape, pool_pass_, first, dlogits_);
  plan.add("dfeatures", features_.shape, first, first, dfeatures_);
  plan.add("pixel.grad", features_.shape.size(), first, last, pixel_grad_);
  classifier_backward_cut_ = ops::conv1x1_backward_cut(features_.shape, logits_.shape);
  plan.add("classifier.slots", slots(parameters_->packed(classifier_w_), classifier_backward_cut_),
           first, first, classifier_slots_);
  plan.add("classifier.wt", static_cast<size_t>(classes_) * static_cast<size_t>(y.padded_c()),
           first, first, classifier_wt_);

  plan.add_sums("head.dz.sums", 1, y.padded_c(), first, conv_grad_sums_);
  plan.add_sums("head.dx.sums", conv_backward_cut_.rows.items(), x.padded_c(), last,
                input_grad_sums_);
  plan.add("head.slots", slots(parameters_->packed(w_), conv_backward_cut_), last, last, slots_);
  if (!conv_backward_cut_.one_sweep()) plan.add("head.dy", y.size(), last, last, finished_dy_);
  plan.add("head.wt", static_cast<size_t>(channels_) * static_cast<size_t>(x.padded_c()), first,
           last, wt_);
}

void Head::add_costs(Plan& plan) {
  const Shape &x = input_->y.shape, &y = conv_.y.shape;
  const double conv = static_cast<double>(x.rows()) * x.c * channels_;
  const double dense = static_cast<double>(x.n) * channels_ * classes_;
  const auto add = [&](const char* kind, double macs, double moved, const ops::RowCut& cut,
                       const Shape& rows, int units) {
    return plan.profile().add({kind, kind, macs, moved, cut.items() * units,
                               ops::largest_share(cut, rows.n, rows.pixels()) / units});
  };
  // Reading the input: its tensor, a pending skip, and writing it where it is kept.
  const double input = bytes(x) * ((input_->has_skip() ? 2 : 1) + (x_in_.shape.n > 0 ? 1 : 0));
  cost_.conv =
      add("head", conv, input + bytes(y), conv_cut_, y, ops::conv1x1_forward_column_groups(x, y));
  cost_.pool = add("head pool", 0, bytes(y), pool_cut_, y, ceil_div(y.padded_c(), kWideBlock));
  cost_.classifier =
      add("classifier", dense, bytes(features_.shape) + bytes(logits_.shape), classifier_cut_,
          features_.shape, ops::conv1x1_forward_column_groups(features_.shape, logits_.shape));
  if (!plan.training()) return;
  const auto add_backward = [&](const char* kind, double macs, double moved,
                                const ops::Conv1x1BackwardCut& cut, const Shape& in,
                                const Shape& out) {
    return plan.profile().add(
        {kind, kind, macs, moved, cut.items(), ops::largest_share(cut, in, out)});
  };
  const double dlogits = (classifier_backward_cut_.one_sweep() ? 1 : 2) * bytes(logits_.shape);
  cost_.classifier_backward =
      add_backward("classifier backward", 2 * dense, 2 * bytes(features_.shape) + dlogits,
                   classifier_backward_cut_, features_.shape, logits_.shape);
  // dw also writes the dy that dx reads.
  const double finished = conv_backward_cut_.one_sweep() ? 0 : 2 * bytes(y);
  cost_.conv_backward = add_backward("head backward", 2 * conv, 3 * bytes(x) + bytes(y) + finished,
                                     conv_backward_cut_, x, y);
}

void Head::append_transposes(std::vector<Transpose>& list) const {
  append_transpose(list, parameters_->packed(w_), {wt_, channels_, input_->y.shape.c});
  append_transpose(list, parameters_->packed(classifier_w_), {classifier_wt_, classes_, channels_});
}

ops::Deferred Head::saved_input() const {
  if (!x_in_) return input_->deferred();
  ops::Deferred x;
  x.y = x_in_;
  return x;
}

void Head::infer(const ops::Context& context) {
  {
    const Profile::Scope scope(context.profile, cost_.conv);
    ops::Conv1x1Forward args{};
    args.x = input_->finished();
    args.w = folded_.w();
    args.y = conv_.y;
    args.cut = conv_cut_;
    args.column_groups = ops::conv1x1_forward_column_groups(input_->y.shape, conv_.y.shape);
    args.finish = folded_.finish(conv_.activation);
    ops::conv1x1_forward(context, args);
  }
  {
    const Profile::Scope scope(context.profile, cost_.pool);
    ops::pool_forward(context, {conv_.finished(), pool_partial_, features_.data, nullptr, nullptr,
                                nullptr, pool_cut_});
  }
  forward_classifier(context);
}

void Head::forward(const ops::Context& context, const DropoutKey& dropout) {
  forward_conv(context);
  forward_pool(context, dropout);
  forward_classifier(context);
}

void Head::forward_classifier(const ops::Context& context) {
  const Profile::Scope scope(context.profile, cost_.classifier);
  ops::Conv1x1Forward args{};
  args.x.y = features_;
  args.w = parameters_->packed(classifier_w_);
  args.y = logits_;
  args.cut = classifier_cut_;
  args.column_groups = ops::conv1x1_forward_column_groups(features_.shape, logits_.shape);
  ops::conv1x1_forward(context, args);
}

void Head::forward_conv(const ops::Context& context) {
  const Profile::Scope scope(context.profile, cost_.conv);
  ops::conv1x1_forward(
      context,
      {input_->deferred(), x_in_, parameters_->packed(w_), conv_.y, bn_.vectors().running_mean,
       conv_sums_, conv_cut_, ops::conv1x1_forward_column_groups(input_->y.shape, conv_.y.shape)});
  bn_.forward(*context.workers, conv_.y, conv_cut_, conv_sums_);
}

void Head::forward_pool(const ops::Context& context, const DropoutKey& dropout) {
  const Profile::Scope scope(context.profile, cost_.pool);
  ops::pool_forward(context, {conv_.deferred(), pool_partial_, pooled_, slopes_, bn_.vectors().mean,
                              bn_.vectors().invstd, pool_cut_});
  ops::draw_dropout_mask(*context.workers, static_cast<float>(dropout_), dropout.seed, dropout.step,
                         features_.shape.n, channels_, mask_);
  ops::apply_dropout(context, pooled_, mask_, 1.0f, static_cast<int>(features_.shape.size()),
                     features_.data);
}

BatchResult Head::loss(const ops::Context& context, std::span<const int32_t> labels,
                       float smoothing, bool gradient) {
  const int count = static_cast<int>(labels.size());
  require(count >= 1 && count <= logits_.shape.n && (!gradient || count == logits_.shape.n),
          "loss: ", count, " labels for a batch of ", logits_.shape.n);
  View<const float> logits = logits_;
  logits.shape.n = count;
  ops::Loss args{
      logits, parameters_->w(classifier_b_), labels.data(), smoothing, {}, nullptr, losses_,
      ranks_};
  if (gradient) {
    args.dlogits = dlogits_;
    args.dbias = parameters_->g(classifier_b_);
  }
  ops::loss_forward(context, args);
  BatchResult result;
  for (int n = 0; n < count; ++n) {
    result.cross_entropy += losses_[n] / count;
    result.top1 += ranks_[n] < 1;
    result.top5 += ranks_[n] < 5;
  }
  return result;
}

void Head::backward(const ops::Context& context) {
  {
    const Profile::Scope scope(context.profile, cost_.classifier_backward);
    backward_classifier(context);
    fold_pool_gradient(context);
  }
  const Profile::Scope scope(context.profile, cost_.conv_backward);
  ops::Conv1x1Backward args{};
  args.dy = conv_.grad();
  args.dy.offset = pixel_grad_;
  args.dy.activation = conv_.activation;
  args.x = saved_input();
  args.wt = {wt_, channels_, input_->y.shape.c};
  args.dx = input_->input_grad({}, input_grad_sums_);
  args.dw = parameters_->packed_gradient(w_);
  args.dw_slots = slots_;
  args.finished_dy = finished_dy_;
  args.cut = conv_backward_cut_;
  ops::conv1x1_backward(context, args);
  input_->batch_norm->backward(*context.workers, input_grad_sums_, input_->y.shape.rows());
}

void Head::backward_classifier(const ops::Context& context) {
  ops::Conv1x1Backward args{};
  args.dy.g = dlogits_;
  args.x.y = features_;
  args.wt = {classifier_wt_, classes_, channels_};
  args.dx.dz = dfeatures_;
  args.dw = parameters_->packed_gradient(classifier_w_);
  args.dw_slots = classifier_slots_;
  args.cut = classifier_backward_cut_;
  ops::conv1x1_backward(context, args);
}

// The gradient of the pool's mean is the same for every pixel, so that the sums of the batch norm's
// backward pass follow from those the forward pass collected.
void Head::fold_pool_gradient(const ops::Context& context) {
  const Shape& y = conv_.y.shape;
  const int channels = y.padded_c();
  ops::apply_dropout(context, dfeatures_.data, mask_, 1.0f / static_cast<float>(y.pixels()),
                     static_cast<int>(features_.shape.size()), pixel_grad_);
  double* sums = conv_grad_sums_.slot(0);
  context.workers->run(ceil_div(channels, kWideBlock), [&](int unit, int) {
    const int begin = unit * kWideBlock, end = std::min(channels, begin + kWideBlock);
    std::fill(sums + begin, sums + end, 0.0);
    std::fill(sums + channels + begin, sums + channels + end, 0.0);
    for (int n = 0; n < y.n; ++n) {
      const float* grad = pixel_grad_ + ptrdiff_t{n} * channels;
      const double* slopes = slopes_ + ptrdiff_t{n} * 2 * channels;
      for (int c = begin; c < end; ++c) {
        sums[c] += grad[c] * slopes[c];
        sums[channels + c] += grad[c] * slopes[channels + c];
      }
    }
  });
  bn_.backward(*context.workers, conv_grad_sums_, y.rows());
}

std::vector<float> Head::logits(int n) const {
  const float* row = logits_.pixel(n, 0, 0);
  const float* bias = parameters_->w(classifier_b_);
  std::vector<float> out(row, row + classes_);
  for (size_t k = 0; k < out.size(); ++k) out[k] += bias[k];
  return out;
}

}  // namespace mbconv::net
