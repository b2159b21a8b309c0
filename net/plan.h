#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "lib/arena.h"
#include "lib/profile.h"
#include "lib/tensor.h"
#include "net/parameters.h"
#include "ops/batch_norm.h"

namespace mbconv::net {

// Of costs: bytes of a tensor that crosses memory once, and multiply-adds of a pass over its rows.
inline double bytes(const Shape& shape) {
  return static_cast<double>(shape.size() * sizeof(float));
}
inline double macs(const Shape& rows, int64_t macs_a_row) {
  return static_cast<double>(rows.rows()) * static_cast<double>(macs_a_row);
}

// Collects the buffers of a network and when they are needed. Forward passes are numbered in the
// order they run; in training the backward pass of forward pass p is backward(p), counted on from
// there.
class Plan {
 public:
  Plan(int batch, int forward_passes, bool training)
      : batch_(batch), passes_(forward_passes), training_(training) {}

  int batch() const { return batch_; }
  bool training() const { return training_; }
  int backward(int pass) const { return 2 * passes_ - 1 - pass; }
  int first_backward() const { return passes_; }
  int end() const { return training_ ? 2 * passes_ - 1 : passes_ - 1; }
  // The number of the next forward pass.
  int next_pass() { return next_++; }

  // Registers a buffer of `count` elements needed in passes [first, last]; `target` points at it
  // once the arena is allocated, and must stay where it is until then.
  template <class T>
  Arena::Id add(std::string name, size_t count, int first, int last, T*& target) {
    const Arena::Id id = arena_.add<T>(std::move(name), count, first, last);
    bindings_.push_back([this, id, &target] { target = arena_.data<T>(id); });
    return id;
  }
  Arena::Id add(std::string name, const Shape& shape, int first, int last, View<float>& target) {
    target.shape = shape;
    const Arena::Id id = add(std::move(name), shape.size(), first, last, target.data);
    if (largest_ < 0 || arena_.bytes(id) > arena_.bytes(largest_)) largest_ = id;
    return id;
  }
  // A buffer is needed in pass `last` as well.
  void keep(Arena::Id id, int last) { arena_.extend(id, last); }
  // Partial sums of `slots` work items for the batch norm of a tensor, needed in one pass only.
  void add_sums(std::string name, int slots, int channels, int pass, ops::ChannelSums& target) {
    target.slots = slots;
    target.channels = channels;
    add(std::move(name), ops::ChannelSums::size(slots, channels), pass, pass, target.data);
  }

  // Something to do once the arena is allocated.
  void then(std::function<void()> task) { bindings_.push_back(std::move(task)); }

  // Assigns offsets, takes the memory, sets all targets.
  void allocate() {
    arena_.plan();
    arena_.allocate();
    for (const auto& bind : bindings_) bind();
    bindings_.clear();
  }
  const Arena& arena() const { return arena_; }
  // The largest tensor of activations, the first of several.
  Arena::Id largest() const { return largest_; }
  Profile& profile() { return profile_; }

 private:
  int batch_, passes_;
  bool training_;
  int next_ = 0;
  Arena arena_;
  Arena::Id largest_ = -1;
  Profile profile_;
  std::vector<std::function<void()>> bindings_;
};

// A weight matrix and a panel of its transpose, which the gradient of a convolution's input reads.
struct Transpose {
  ops::Packed<const float> w;
  ops::Packed<float> wt;
  int panel;
};
// Appends all panels.
inline void append_transpose(std::vector<Transpose>& list, ops::Packed<const float> w,
                             ops::Packed<float> wt) {
  for (int panel = 0; panel < wt.panels(); ++panel) list.push_back({w, wt, panel});
}

// A batch norm: its parameters and its vectors.
class BatchNormLayer {
 public:
  BatchNormLayer(std::string name, int channels, Parameters& parameters);
  void plan(Plan& plan);

  const ops::BatchNorm& vectors() const { return bn_; }
  // Training: folds the sums of the pass that produced y.
  void forward(Workers& workers, View<const float> y, const ops::RowCut& cut,
               const ops::ChannelSums& sums);
  // Inference: scale and shift of the running statistics.
  void use_running();
  // Folds the sums of the pass that produced its dz over `rows` rows.
  void backward(Workers& workers, const ops::ChannelSums& sums, int64_t rows);

 private:
  std::string name_;
  Parameters* parameters_;
  Parameters::Id gamma_, beta_, running_mean_, running_var_;
  ops::BatchNorm bn_;
  float* memory_ = nullptr;
};

// The weights of a convolution with the running statistics of the batch norm behind it folded in,
//   w'[k,o] = w[k,o] scale[o],  bias[o] = shift[o],
// for inference.
class FoldedWeights {
 public:
  // Memory for the forward passes.
  void plan(Plan& plan, const std::string& name, ops::Packed<const float> w, BatchNormLayer& bn);
  // Computes them from the parameters.
  void fold() const;
  ops::Packed<const float> w() const { return folded_; }
  // The epilogue that goes with them.
  ops::Finish finish(ops::Activation activation, View<const float> skip = {}) const;

 private:
  ops::Packed<const float> w_;
  ops::Packed<float> folded_;
  BatchNormLayer* batch_norm_ = nullptr;
};

// What a layer hands to the next one. In training its raw output with the batch norm, activation
// and skip that are still pending, and the place where the next layer puts the gradient; in
// inference `y` is finished.
struct Output {
  View<float> y;          // output of the layer's last convolution
  Arena::Id memory = -1;  // of y
  BatchNormLayer* batch_norm = nullptr;
  ops::Activation activation = ops::Activation::linear;
  View<float> skip;  // input of the block that made it, if that is to be added
  View<float> dz;    // gradient at the output of the batch norm

  // Known before memory is allocated.
  bool has_skip() const { return skip.shape.n > 0; }
  ops::Deferred deferred() const;
  ops::Deferred finished() const;
  // Sends an input gradient to dz; `skip_grad` is what by-passed the layer above.
  ops::InputGrad input_grad(View<const float> skip_grad, const ops::ChannelSums& sums) const;
  ops::DeferredGrad grad() const;
};

}  // namespace mbconv::net
