#pragma once

#include <memory>
#include <string>
#include <vector>

#include "net/config.h"
#include "net/parameters.h"
#include "net/plan.h"
#include "ops/dwconv.h"
#include "ops/inverted_residual.h"
#include "ops/project.h"

namespace mbconv::net {

// One MBConv block (Sandler et al. 2018, with squeeze-excite): expand 1x1, depthwise,
// squeeze-excite, project 1x1, plus the block input where it fits. E = expanded channels, [N,H,W,*]
// in, [N,OH,OW,*] out. Forward passes: expand, depthwise, project; backward passes the reverse.
class Mbconv {
 public:
  // Registers the parameters; `name` is "blocks.STAGE.INDEX".
  Mbconv(const BlockConfig& config, ops::Activation activation, Parameters& parameters);

  // Registers the buffers. `input` is the output of the layer before and must outlive the block.
  void plan(Plan& plan, Output& input);
  Output& output() { return output_; }
  // Floats of scratch memory a worker needs.
  size_t scratch() const;

  // After the weights are folded.
  void infer(const ops::Context& context);
  void forward(const ops::Context& context);
  // From output().dz, whose sums are folded: the gradients of all parameters, and input's dz with
  // its sums folded.
  void backward(const ops::Context& context);

  void append_folded(std::vector<const FoldedWeights*>& list) const;
  // Appends the weights whose transposes the backward passes read.
  void append_transposes(std::vector<Transpose>& list) const;

 private:
  void plan_forward(Plan& plan);
  void plan_sums(Plan& plan);
  void plan_inference(Plan& plan);
  void plan_backward(Plan& plan);
  void plan_backward_project(Plan& plan);
  Profile::Id add_cost(Plan& plan, const char* kind, double macs, double bytes,
                       const ops::RowCut& cut, const Shape& shape, int rows, int units) const;
  void add_costs(Plan& plan);
  void add_inference_cost(Plan& plan);
  // Shape of the depthwise convolution's input.
  const Shape& wide_shape() const { return depthwise_source().y.shape; }
  // What the depthwise convolution reads.
  const Output& depthwise_source() const { return config_.expand ? expanded_ : *input_; }
  // The block input as the backward pass reads it: finished, where the forward pass wrote it.
  ops::Deferred saved_input() const;
  View<const float> skip_grad() const;
  ops::SqueezeExcite squeeze_excite() const;
  void forward_expand(const ops::Context& context);
  void forward_depthwise(const ops::Context& context);
  void forward_project(const ops::Context& context);
  void backward_project(const ops::Context& context);
  void backward_depthwise(const ops::Context& context);
  void backward_expand(const ops::Context& context);

  BlockConfig config_;
  ops::Activation activation_;
  std::string name_;
  Parameters* parameters_;
  Output* input_ = nullptr;
  Output output_;

  // Parameters. The order of registration is that of a checkpoint.
  Parameters::Id expand_w_ = 0, depthwise_w_ = 0, project_w_ = 0;
  Parameters::Id reduce_w_ = 0, reduce_b_ = 0, gate_w_ = 0, gate_b_ = 0;
  std::unique_ptr<BatchNormLayer> expand_bn_, depthwise_bn_, project_bn_;
  FoldedWeights expand_folded_, depthwise_folded_, project_folded_;

  struct {
    Profile::Id expand, depthwise, project, project_backward, depthwise_backward, expand_backward;
    Profile::Id block;  // in inference
  } cost_ = {};

  int first_pass_ = 0, depthwise_pass_ = 0, project_pass_ = 0;

  // Saved from forward to backward.
  View<float> x_in_;          // [N,H,W,in] the finished block input, where training writes it
  bool keeps_input_ = false;  // until the backward pass
  Output expanded_;           // [N,H,W,E]
  Output depthwise_;          // [N,OH,OW,E], whose gradient goes by g_, gate_ and offset_
  float *pooled_ = nullptr, *gate_ = nullptr, *u_ = nullptr;  // [N,E], [N,E], [N,reduced]

  // Work of single passes.
  ops::RowCut expand_cut_;
  ops::DwconvCut depthwise_cut_, depthwise_backward_cut_;
  ops::ProjectForwardCut project_cut_;
  ops::InvertedResidualCut inference_cut_;
  ops::ProjectBackwardCut project_backward_cut_;
  ops::Conv1x1BackwardCut expand_backward_cut_;
  ops::ChannelSums expand_sums_, depthwise_sums_, project_sums_;
  ops::ChannelSums depthwise_grad_sums_, expand_grad_sums_, input_grad_sums_;
  double* pool_partial_ = nullptr;
  View<float> g_;  // [N,OH,OW,E] gradient of the gated activation
  float* gate_sums_ = nullptr;
  float *dgate_ = nullptr, *e_ = nullptr, *offset_ = nullptr;  // [N,E]
  float *du_ = nullptr, *h_ = nullptr;                         // [N,reduced]
  float *expand_wt_ = nullptr, *project_wt_ = nullptr;
  float *expand_slots_ = nullptr, *depthwise_slots_ = nullptr, *project_slots_ = nullptr;
  float *finished_dy_ = nullptr, *finished_expand_dy_ = nullptr;
};

}  // namespace mbconv::net
