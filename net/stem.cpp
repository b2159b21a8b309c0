#include "net/stem.h"

namespace mbconv::net {

Stem::Stem(const NetworkConfig& config, Parameters& parameters)
    : resolution_(config.model.resolution),
      channels_(config.stem_channels),
      parameters_(&parameters),
      w_(parameters.add("conv_stem.weight", {channels_, 3, 3, 3}, Layout::stem, Initial::he_normal,
                        true, true)),
      bn_("bn1", channels_, parameters) {
  output_.batch_norm = &bn_;
  output_.activation = config.model.activation;
}

void Stem::plan(Plan& plan) {
  const int pass = plan.next_pass(), next = pass + 1;
  const Shape y = ops::stem_output(plan.batch(), resolution_, resolution_, channels_);
  output_.memory =
      plan.add("stem", y, pass, plan.training() ? plan.backward(pass) : next, output_.y);
  cut_ = ops::stem_cut(y);
  bn_.plan(plan);
  folded_.plan(plan, "stem", parameters_->packed(w_), bn_);
  const double pictures =
      static_cast<double>(plan.batch()) * resolution_ * resolution_ * 3 * sizeof(float);
  const double output = static_cast<double>(y.size() * sizeof(float));
  const double macs = static_cast<double>(y.rows()) * ops::kStemDepth * channels_;
  const double share = ops::largest_share(cut_, y.n, y.pixels());
  cost_ = plan.profile().add({"stem", "stem", macs, pictures + output, cut_.items(), share});
  if (!plan.training()) return;
  backward_cost_ = plan.profile().add(
      {"stem backward", "stem backward", macs, pictures + 2 * output, cut_.items(), share});
  plan.add_sums("stem.sums", cut_.items(), y.padded_c(), pass, sums_);
  plan.add("stem.dz", y, plan.backward(next), plan.backward(pass), output_.dz);
  const size_t weights = parameters_->packed(w_).size();
  plan.add("stem.slots", weights * static_cast<size_t>(cut_.items()), plan.backward(pass),
           plan.backward(pass), slots_);
}

void Stem::infer(const ops::Context& context, const float* images) {
  const Profile::Scope scope(context.profile, cost_);
  ops::stem_forward(context, {images,
                              resolution_,
                              resolution_,
                              folded_.w(),
                              output_.y,
                              nullptr,
                              {},
                              cut_,
                              folded_.finish(output_.activation)});
}

void Stem::forward(const ops::Context& context, const float* images) {
  const Profile::Scope scope(context.profile, cost_);
  ops::stem_forward(context, {images, resolution_, resolution_, parameters_->packed(w_), output_.y,
                              bn_.vectors().running_mean, sums_, cut_});
  bn_.forward(*context.workers, output_.y, cut_, sums_);
}

void Stem::backward(const ops::Context& context, const float* images) {
  const Profile::Scope scope(context.profile, backward_cost_);
  ops::stem_backward(context, {images, resolution_, resolution_, output_.grad(),
                               parameters_->packed_gradient(w_), slots_, cut_});
}

}  // namespace mbconv::net
