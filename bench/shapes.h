#pragma once

#include <string>
#include <vector>

#include "lib/tensor.h"
#include "net/config.h"

namespace mbconv::bench {

// A layer of a network as its passes see it. Layers of one network that differ in nothing but the
// name are listed once.
struct Layer {
  enum class Op { stem, conv1x1, dwconv, project, pool, block };

  Op op;
  std::string name;  // "b0_r224_blocks.1.0.expand", "b0_r224_inference.blocks.1.0"
  Shape x, y;        // [1,H,W,Cin] in and [1,OH,OW,Cout] out; y of a pool: [1,1,1,C]
  int ksize = 1, stride = 1;
  int reduced = 0;   // of squeeze-excite
  int expanded = 0;  // of a block with an expand convolution: its channels
  // In inference nothing is pending on x, and `activation` is what the layer finishes with.
  bool inference = false;
  // What is pending on x: a batch norm (or nothing), an activation, a skip.
  bool norm = true;
  ops::Activation activation = ops::Activation::linear;
  bool skip = false;
  bool residual = false;  // x is added to the block's output, its gradient to the input's
  bool pooled = false;    // the output goes to the head's pool: its gradient is one for all pixels

  bool same_work(const Layer& other) const;
  // For a batch of n: "n16_h112_w112_c16_96", "n16_h112_w112_c96_k3_s2" or, of a block,
  // "n16_h112_w112_c16_96_24_k3_s2".
  std::string shape_name(int n) const;
  // Of a block: the input of its depthwise convolution, [1,H,W,C].
  Shape wide() const;
  // Of an image's tensors, each counted once.
  size_t bytes() const;
  // The same for maps of at most `lines` output lines, and for a depthwise convolution of at most
  // `channels`.
  Layer cropped(int lines) const;
  Layer of_channels(int channels) const;
};

// The distinct layers of a network, in forward order: those of training, then those that inference
// runs otherwise, which has a whole block for a layer.
std::vector<Layer> layers(const net::NetworkConfig& network);

// A published model at a resolution.
net::NetworkConfig network(const std::string& model, int resolution);

}  // namespace mbconv::bench
