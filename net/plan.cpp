#include "net/plan.h"

namespace mbconv::net {

BatchNormLayer::BatchNormLayer(std::string name, int channels, Parameters& parameters)
    : name_(std::move(name)), parameters_(&parameters) {
  const std::vector<int64_t> shape = {channels};
  gamma_ = parameters.add(name_ + ".weight", shape, Layout::vector, Initial::one);
  beta_ = parameters.add(name_ + ".bias", shape, Layout::vector, Initial::zero);
  running_mean_ =
      parameters.add(name_ + ".running_mean", shape, Layout::vector, Initial::zero, false);
  running_var_ = parameters.add(name_ + ".running_var", shape, Layout::vector, Initial::one, false);
  parameters.add_counter(name_);
  bn_.channels = channels;
  bn_.padded = round_up(channels, kLane);
}

void BatchNormLayer::plan(Plan& plan) {
  plan.add(name_ + ".vectors", size_t{7} * static_cast<size_t>(bn_.padded), 0, plan.end(), memory_);
  const bool training = plan.training();
  plan.then([this, training] {
    bn_.gamma = parameters_->w(gamma_);
    bn_.beta = parameters_->w(beta_);
    bn_.running_mean = parameters_->w(running_mean_);
    bn_.running_var = parameters_->w(running_var_);
    if (training) {
      bn_.dgamma = parameters_->g(gamma_);
      bn_.dbeta = parameters_->g(beta_);
    }
    float* next = memory_;
    for (float** vector :
         {&bn_.mean, &bn_.invstd, &bn_.scale, &bn_.shift, &bn_.a, &bn_.b, &bn_.d}) {
      *vector = next;
      next += bn_.padded;
    }
  });
}

void BatchNormLayer::forward(Workers& workers, View<const float> y, const ops::RowCut& cut,
                             const ops::ChannelSums& sums) {
  const ops::BatchNormOptions options;
  const int64_t rows = y.shape.rows();
  const ops::ChannelSums all = ops::sum_slots(workers, sums);
  if (ops::batch_norm_forward(bn_, all, bn_.running_mean, rows, options, true)) return;
  ops::channel_sums(workers, y, cut, bn_.mean, sums);
  ops::batch_norm_forward(bn_, ops::sum_slots(workers, sums), bn_.mean, rows, options, true);
}

void BatchNormLayer::use_running() {
  ops::batch_norm_inference(bn_, ops::BatchNormOptions());
}

void BatchNormLayer::backward(Workers& workers, const ops::ChannelSums& sums, int64_t rows) {
  ops::batch_norm_backward(bn_, ops::sum_slots(workers, sums), rows);
}

void FoldedWeights::plan(Plan& plan, const std::string& name, ops::Packed<const float> w,
                         BatchNormLayer& bn) {
  w_ = w;
  folded_.k = w.k;
  folded_.n = w.n;
  batch_norm_ = &bn;
  plan.add(name + ".folded", w.size(), 0, plan.first_backward() - 1, folded_.data);
}

void FoldedWeights::fold() const {
  batch_norm_->use_running();
  ops::scale_columns(w_, batch_norm_->vectors().scale, folded_);
}

ops::Finish FoldedWeights::finish(ops::Activation activation, View<const float> skip) const {
  return {batch_norm_->vectors().shift, activation, skip};
}

ops::Deferred Output::deferred() const {
  const ops::BatchNorm& bn = batch_norm->vectors();
  ops::Deferred x;
  x.y = y;
  x.scale = bn.scale;
  x.shift = bn.shift;
  x.activation = activation;
  x.skip = skip;
  return x;
}

ops::Deferred Output::finished() const {
  ops::Deferred x;
  x.y = y;
  return x;
}

ops::InputGrad Output::input_grad(View<const float> skip_grad, const ops::ChannelSums& sums) const {
  const ops::BatchNorm& bn = batch_norm->vectors();
  ops::InputGrad out;
  out.dz = dz;
  out.skip = skip_grad;
  out.y = y;
  out.scale = bn.scale;
  out.shift = bn.shift;
  out.activation = activation;
  out.mean = bn.mean;
  out.invstd = bn.invstd;
  out.sums = sums;
  return out;
}

ops::DeferredGrad Output::grad() const {
  const ops::BatchNorm& bn = batch_norm->vectors();
  ops::DeferredGrad dy;
  dy.g = dz;
  dy.y = y;
  dy.scale = bn.scale;
  dy.shift = bn.shift;
  dy.mean = bn.mean;
  dy.a = bn.a;
  dy.b = bn.b;
  dy.d = bn.d;
  return dy;
}

}  // namespace mbconv::net
