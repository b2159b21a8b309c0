#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "net/config.h"
#include "net/parameters.h"
#include "net/plan.h"
#include "ops/conv1x1.h"
#include "ops/loss.h"
#include "ops/pool.h"

namespace mbconv::net {

// The numbers of one batch.
struct BatchResult {
  double cross_entropy = 0;  // mean over the images
  int top1 = 0, top5 = 0;    // images whose label is among the largest one or five logits
};

// What the random numbers of a step's dropout depend on.
struct DropoutKey {
  uint64_t seed;
  int64_t step;
};

// The last layers: 1x1 convolution, batch norm, activation, global average pool, dropout,
// classifier, loss. C = head channels, K = classes. Forward passes: the convolution; everything
// after it.
class Head {
 public:
  Head(const NetworkConfig& config, Parameters& parameters);
  void plan(Plan& plan, Output& input);
  size_t scratch() const;

  void infer(const ops::Context& context);
  void forward(const ops::Context& context, const DropoutKey& dropout);
  // Of the first labels.size() images; with `gradient`, which needs labels for the whole batch,
  // also what backward() starts from.
  BatchResult loss(const ops::Context& context, std::span<const int32_t> labels, float smoothing,
                   bool gradient);
  // The input's dz, with its sums folded, and all parameters' gradients.
  void backward(const ops::Context& context);
  void append_folded(std::vector<const FoldedWeights*>& list) const { list.push_back(&folded_); }
  void append_transposes(std::vector<Transpose>& list) const;

  // Logits of image n, [K], bias included.
  std::vector<float> logits(int n) const;

 private:
  void plan_forward(Plan& plan);
  void plan_backward(Plan& plan);
  void add_costs(Plan& plan);
  ops::Deferred saved_input() const;
  void forward_conv(const ops::Context& context);
  void forward_pool(const ops::Context& context, const DropoutKey& dropout);
  void forward_classifier(const ops::Context& context);
  void backward_classifier(const ops::Context& context);
  void fold_pool_gradient(const ops::Context& context);

  int channels_, classes_;
  double dropout_;
  Parameters* parameters_;
  Parameters::Id w_;
  BatchNormLayer bn_;
  FoldedWeights folded_;
  Parameters::Id classifier_w_, classifier_b_;
  Output* input_ = nullptr;
  int conv_pass_ = 0, pool_pass_ = 0;
  struct {
    Profile::Id conv, pool, classifier, classifier_backward, conv_backward;
  } cost_ = {};

  Output conv_;                       // [N,H,W,C]; its gradient is the same for all pixels
  View<float> x_in_;                  // finished input, where the backward pass wants it
  View<float> features_, dfeatures_;  // [N,1,1,C] after dropout
  View<float> logits_, dlogits_;      // [N,1,1,K], without bias
  float* pooled_ = nullptr;           // [N,C]
  float* mask_ = nullptr;             // [N,C] of dropout
  float* pixel_grad_ = nullptr;       // [N,C] gradient of every pixel of a channel
  float* finished_dy_ = nullptr;      // [N,H,W,C] gradient of the raw conv_.y
  double* pool_partial_ = nullptr;
  double* slopes_ = nullptr;  // [N,2,C]
  double* losses_ = nullptr;  // [N]
  int32_t* ranks_ = nullptr;  // [N]

  ops::RowCut conv_cut_, pool_cut_, classifier_cut_;
  ops::Conv1x1BackwardCut conv_backward_cut_, classifier_backward_cut_;
  ops::ChannelSums conv_sums_, conv_grad_sums_, input_grad_sums_;
  float *wt_ = nullptr, *classifier_wt_ = nullptr;
  float *slots_ = nullptr, *classifier_slots_ = nullptr;
};

}  // namespace mbconv::net
