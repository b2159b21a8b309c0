#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/buffer.h"
#include "lib/named_tensor.h"
#include "ops/packed.h"
#include "ops/sgd.h"

namespace mbconv::net {

// How a tensor of a checkpoint (timm's names, shapes and row-major order) lies in memory.
enum class Layout {
  conv1x1,    // [Cout,Cin,1,1] or [Cout,Cin]  -> Packed [Cin,Cout]
  depthwise,  // [C,1,K,K]                     -> Packed [K*K,C]
  stem,       // [Cout,3,3,3]                  -> Packed [27,Cout], depth (row, column, channel)
  rows,       // [R,C,1,1]                     -> [R][padded C]
  rows_of_transpose,  // [C,R,1,1]               -> [R][padded C]
  vector,             // [C]                           -> [padded C]
};

// Initial values (recipe 1.1).
enum class Initial { he_normal, he_uniform, glorot_uniform, zero, one };

struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
  Layout layout;
  Initial initial;
  bool trainable;
  bool decayed;
  size_t offset, size;  // floats in the flat arrays, padding included
};

// All parameters and running statistics of a network in flat arrays of one layout: values, and for
// training gradients and momentum. Padding is zero and stays zero. Besides, the int64 scalars
// num_batches_tracked that checkpoints hold for each batch norm.
class Parameters {
 public:
  using Id = size_t;

  // Registers a tensor; order of registration is the order in files.
  Id add(std::string name, std::vector<int64_t> shape, Layout layout, Initial initial,
         bool trainable = true, bool decayed = false);
  // Registers NAME.num_batches_tracked.
  void add_counter(std::string name);

  void allocate(bool training);
  void initialise(uint64_t seed);

  float* w(Id id) const { return values_.as<float>() + list_[id].offset; }
  float* g(Id id) const { return gradients_.as<float>() + list_[id].offset; }
  ops::Packed<float> packed(Id id) const { return packed(id, w(id)); }
  ops::Packed<float> packed_gradient(Id id) const { return packed(id, g(id)); }
  const std::vector<Parameter>& list() const { return list_; }
  const std::vector<ops::SgdSegment>& segments() const { return segments_; }

  // One SGD update of all trainable parameters; returns the sum of squares of the decayed ones as
  // they were before.
  double update(const ops::Context& context, float lr, float momentum, float decay);
  double sum_of_squares() const;
  // Memory taken: values, and in training gradients and momentum.
  size_t bytes() const { return values_.size() + gradients_.size() + momentum_.size(); }
  // The name of a tensor of which a value or a momentum is infinite or not a number; "" if none is.
  std::string not_finite() const;
  // Adds one to every num_batches_tracked.
  void count_batch();

  // All tensors, as a timm state_dict holds them.
  std::vector<NamedTensor> save() const;
  // The momentum buffers, named as the parameters.
  std::vector<NamedTensor> save_momentum() const;
  // Takes all tensors. Throws Error naming a tensor that is missing, unknown, or of another shape
  // or type. Tensors whose name begins with `except`, if not empty, are left as they are, in the
  // file and here.
  void load(const TensorFile& file, const std::string& except = {});
  void load_momentum(const TensorFile& file);
  // The gradient of a parameter in the order of files: for tests.
  NamedTensor gradient(Id id) const { return to_file_order(list_[id], g(id)); }

 private:
  struct Counter {
    std::string name;
    size_t after;  // comes before list_[after] in files
    int64_t value;
  };

  ops::Packed<float> packed(Id id, float* data) const;
  NamedTensor to_file_order(const Parameter& p, const float* from) const;
  void from_file_order(const Parameter& p, const NamedTensor& tensor, float* to) const;

  std::vector<Parameter> list_;
  std::vector<Counter> counters_;
  std::vector<ops::SgdSegment> segments_;
  std::vector<double> squares_;
  size_t total_ = 0;
  Buffer values_, gradients_, momentum_;
};

}  // namespace mbconv::net
