#pragma once

#include <cstdint>
#include <span>

#include "net/efficientnet.h"

namespace mbconv::net {

// Hyper-parameters of recipe `sgd-cosine`.
struct TrainOptions {
  double lr = 0.02;
  int64_t warmup_steps = 1000;
  int64_t total_steps = 1;
  double momentum = 0.9;
  double weight_decay = 1e-5;  // times the sum of squares of convolution kernels, added to the loss
  double label_smoothing = 0.1;
  uint64_t seed = 0;
};

struct StepResult {
  BatchResult batch;
  double loss;  // cross-entropy and decay term
  double lr;
};

// Training steps of a network. A step is a pure function of the parameters, the batch, and the
// step's number.
class Trainer {
 public:
  // `network` must outlive the trainer. `step` is the number of steps already done.
  Trainer(EfficientNet& network, const TrainOptions& options, int64_t step = 0);

  // Forward, loss, backward, update. images [batch,R,R,3], normalised; labels for the whole batch.
  // Throws Error, having updated no parameter, if the loss is not finite.
  StepResult step(const float* images, std::span<const int32_t> labels);
  int64_t steps_done() const { return step_; }
  // weight_decay * sum of squares, as it is now.
  double decay_term() const;

 private:
  EfficientNet& network_;
  TrainOptions options_;
  int64_t step_;
};

}  // namespace mbconv::net
