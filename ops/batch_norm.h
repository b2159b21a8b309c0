#pragma once

#include <cstdint>

#include "lib/parallel.h"
#include "ops/cut.h"
#include "ops/deferred.h"

namespace mbconv::ops {

// One batch-norm layer over C channels (Ioffe & Szegedy 2015): its vectors, each of `padded` floats
// with zeros past `channels`.
struct BatchNorm {
  int channels = 0, padded = 0;
  // Parameters and running statistics.
  float *gamma = nullptr, *beta = nullptr, *running_mean = nullptr, *running_var = nullptr;
  // Of the current batch (training) or of the running statistics (inference):
  //   invstd = 1 / sqrt(var + eps), scale = gamma * invstd, shift = beta - mean * scale.
  float *mean = nullptr, *invstd = nullptr, *scale = nullptr, *shift = nullptr;
  // Of the backward pass: dy = a * dz - b - d * (y - mean).
  float *a = nullptr, *b = nullptr, *d = nullptr;
  // Gradients of the parameters.
  float *dgamma = nullptr, *dbeta = nullptr;
};

struct BatchNormOptions {
  double momentum = 0.99;  // running = momentum * running + (1 - momentum) * batch
  double eps = 1e-3;
};

// Adds all slots to the first in ascending order, channels beside each other on all threads, and
// returns the first alone: the others are not to be added again.
ChannelSums sum_slots(Workers& workers, const ChannelSums& sums);

// Training, after the pass that produced y over `count` rows: `sums` holds per slot the sums of
// (y - pivot) and (y - pivot)^2, where pivot = running_mean as it was before this call.
// Overwrites mean, invstd, scale, shift. The variance is the population variance of the batch; the
// moving variance takes the unbiased one, count / max(count - 1, 1). Updates the running statistics
// when `update_running`.
// Returns false if the pivot lies so far from a mean, (mean - pivot)^2 > 1000 (var + eps), that
// fp32 sums are not trustworthy: then only `mean` was written, the pivot for a sweep of
// channel_sums, whose sums are to be passed to another call.
bool batch_norm_forward(const BatchNorm& bn, const ChannelSums& sums, const float* pivot,
                        int64_t count, const BatchNormOptions& options, bool update_running);

// Sums over y [N,H,W,C] of (y - pivot) and (y - pivot)^2 in fp64, the repair for a
// batch_norm_forward that returned false. Overwrites all slots, one for each item of `cut`.
void channel_sums(Workers& workers, View<const float> y, const RowCut& cut, const float* pivot,
                  const ChannelSums& sums);

// Inference: mean, invstd, scale, shift from the running statistics.
void batch_norm_inference(const BatchNorm& bn, const BatchNormOptions& options);

// Backward, after the pass that produced dz over `count` rows: `sums` holds per slot S1 = sum dz
// and S2 = sum dz * xhat. Overwrites a = gamma * invstd, b = a * S1 / count, d = a * invstd * S2 /
// count; accumulates dgamma += S2, dbeta += S1.
void batch_norm_backward(const BatchNorm& bn, const ChannelSums& sums, int64_t count);

}  // namespace mbconv::ops
