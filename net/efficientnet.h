#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lib/isa.h"
#include "lib/parallel.h"
#include "net/config.h"
#include "net/head.h"
#include "net/mbconv.h"
#include "net/parameters.h"
#include "net/plan.h"
#include "net/stem.h"

namespace mbconv::net {

enum class Mode { inference, training };

// An EfficientNet for batches of a fixed size: parameters, the static list of layers, and all
// memory of a step in one arena, planned and taken at construction. Nothing is allocated
// afterwards. R is the resolution; images are [batch,R,R,3], normalised.
class EfficientNet {
 public:
  // `workers` must outlive the network. Throws Error if the configuration makes no network.
  EfficientNet(const NetworkConfig& config, int batch, Mode mode, Workers& workers, Isa isa);

  const NetworkConfig& config() const { return config_; }
  int batch() const { return plan_.batch(); }
  // Parameters to read or to change: whoever keeps the reference asks for it again before each
  // change, so that infer() takes notice.
  Parameters& parameters() {
    folded_ = false;
    return parameters_;
  }
  const Parameters& parameters() const { return parameters_; }
  const Arena& memory() const { return plan_.arena(); }
  const ops::Context& context() const { return context_; }
  // Memory that holds nothing between steps: the largest tensor of activations.
  std::span<float> idle_memory() const;
  // What the passes of the mode cost, and the times they took while it is enabled: a network in
  // Mode::training does not time infer().
  Profile& profile() { return plan_.profile(); }

  // Inference: the running statistics, folded into the weights, and no dropout. They are folded
  // first where forward(), backward() or the non-const parameters() was called since the last
  // infer().
  void infer(const float* images);
  // Training, in Mode::training only: batch statistics, running statistics updated, dropout drawn
  // from (seed, step).
  void forward(const float* images, uint64_t seed, int64_t step);
  // Loss of the last forward pass for the first labels.size() images.
  BatchResult loss(std::span<const int32_t> labels, float smoothing = 0.0f);
  // Loss of the last forward() and, accumulated, the gradients of all parameters.
  BatchResult backward(const float* images, std::span<const int32_t> labels, float smoothing);

  // Logits of image n of the last pass.
  std::vector<float> logits(int n) const { return head_.logits(n); }

 private:
  void fold_weights();
  void transpose_weights();

  NetworkConfig config_;
  Parameters parameters_;
  Stem stem_;
  std::vector<std::unique_ptr<Mbconv>> blocks_;
  Head head_;
  Plan plan_;
  Profile::Id transpose_cost_ = 0, loss_cost_ = 0;
  std::vector<Transpose> transposes_;
  std::vector<const FoldedWeights*> folded_weights_;
  bool folded_ = false;  // they are those of the parameters
  ops::Context context_;
};

}  // namespace mbconv::net
