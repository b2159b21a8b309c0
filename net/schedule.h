#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace mbconv::net {

// Learning rate of recipe `sgd-cosine` at a step counted from 0: a linear warm-up from 0, then a
// cosine that is counted from step 0 as well (Loshchilov & Hutter 2017, without restarts).
inline double cosine_learning_rate(double lr, int64_t step, int64_t warmup_steps,
                                   int64_t total_steps) {
  if (step < warmup_steps)
    return lr * static_cast<double>(step) / static_cast<double>(warmup_steps);
  const double progress = static_cast<double>(step) / static_cast<double>(total_steps);
  return lr * (1.0 + std::cos(std::numbers::pi * progress)) / 2.0;
}

}  // namespace mbconv::net
