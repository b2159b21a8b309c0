#pragma once

#include <memory>

#include "net/config.h"
#include "net/parameters.h"
#include "net/plan.h"
#include "ops/stem.h"

namespace mbconv::net {

// The first layer: 3x3 convolution of stride 2 over pictures [N,R,R,3], batch norm, activation. One
// forward pass.
class Stem {
 public:
  Stem(const NetworkConfig& config, Parameters& parameters);
  void plan(Plan& plan);
  Output& output() { return output_; }
  size_t scratch() const { return ops::stem_scratch(output_.y.shape); }

  void infer(const ops::Context& context, const float* images);
  void forward(const ops::Context& context, const float* images);
  // From output().dz, whose sums are folded.
  void backward(const ops::Context& context, const float* images);
  void append_folded(std::vector<const FoldedWeights*>& list) const { list.push_back(&folded_); }

 private:
  int resolution_, channels_;
  Parameters* parameters_;
  Parameters::Id w_;
  BatchNormLayer bn_;
  FoldedWeights folded_;
  Output output_;
  ops::RowCut cut_;
  Profile::Id cost_ = 0, backward_cost_ = 0;
  ops::ChannelSums sums_;
  float* slots_ = nullptr;
};

}  // namespace mbconv::net
