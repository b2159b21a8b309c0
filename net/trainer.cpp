#include "net/trainer.h"

#include <cmath>

#include "lib/error.h"
#include "net/schedule.h"
#include "ops/sgd.h"

namespace mbconv::net {

Trainer::Trainer(EfficientNet& network, const TrainOptions& options, int64_t step)
    : network_(network), options_(options), step_(step) {
  require(options.total_steps >= 1, "the number of steps must be at least 1, got ",
          options.total_steps);
  require(options.label_smoothing >= 0 && options.label_smoothing < 1,
          "label smoothing must be at least 0 and below 1, got ", options.label_smoothing);
}

StepResult Trainer::step(const float* images, std::span<const int32_t> labels) {
  StepResult result;
  result.lr = cosine_learning_rate(options_.lr, step_, options_.warmup_steps, options_.total_steps);
  network_.forward(images, options_.seed, step_);
  result.batch = network_.backward(images, labels, static_cast<float>(options_.label_smoothing));
  require(std::isfinite(result.batch.cross_entropy), "the loss of step ", step_ + 1, " is ",
          result.batch.cross_entropy, "; a lower learning rate or a longer warm-up may help");
  const double squares = network_.parameters().update(
      network_.context(), static_cast<float>(result.lr), static_cast<float>(options_.momentum),
      static_cast<float>(options_.weight_decay));
  result.loss = result.batch.cross_entropy + options_.weight_decay * squares;
  ++step_;
  return result;
}

double Trainer::decay_term() const {
  return options_.weight_decay * network_.parameters().sum_of_squares();
}

}  // namespace mbconv::net
