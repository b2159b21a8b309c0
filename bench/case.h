#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "bench/shapes.h"
#include "lib/buffer.h"
#include "ops/context.h"
#include "ops/deferred.h"
#include "ops/packed.h"

namespace mbconv::bench {

// The memory of one call of an op, all of it filled with numbers in a range that keeps kernels
// among normal floats.
class Memory {
 public:
  // Uniform in [low, high).
  float* floats(size_t count, float low = -1, float high = 1);
  double* doubles(size_t count);
  float* vector(const Shape& s, float low = -1, float high = 1);     // [C]
  float* per_image(const Shape& s, float low = -1, float high = 1);  // [N,C]
  // A tensor that crosses memory.
  View<float> tensor(const Shape& s);
  ops::Packed<float> matrix(int k, int n);
  ops::ChannelSums sums(int slots, const Shape& of);

  // What is pending on a layer's input.
  ops::Deferred deferred(const Shape& s, const Layer& layer);
  // The epilogue of a layer in inference.
  ops::Finish finish(const Shape& s, ops::Activation activation);
  // A gradient through a batch norm, with nothing else pending.
  ops::DeferredGrad grad(const Shape& s);
  // The place for a gradient through the batch norm of `x`, or one of its own if x is finished.
  ops::InputGrad input_grad(const ops::Deferred& x, const Layer& layer, int slots);

  size_t bytes() const { return bytes_; }
  // Of tensors only, each counted once: the traffic of a pass over memory.
  size_t tensor_bytes() const { return tensor_bytes_; }

 private:
  Buffer& take(size_t bytes);

  std::vector<Buffer> buffers_;
  size_t bytes_ = 0, tensor_bytes_ = 0;
  uint32_t state_ = 1;
};

// One call of an op with all it needs.
struct Case {
  Memory memory;
  std::function<void(const ops::Context&)> run;
  size_t scratch = 0;  // floats a worker needs
  double macs = 0;
};

// The passes of a layer for a batch of n images.
using MakeCase = Case(const Layer& layer, int n);
MakeCase stem_forward, stem_backward, conv1x1_forward, conv1x1_backward, dwconv_forward,
    dwconv_backward, project_forward, project_backward, pool_forward, inverted_residual_forward;
// Depthwise convolution of finished values without statistics: little more than the taps.
MakeCase dwconv_plain;

}  // namespace mbconv::bench
