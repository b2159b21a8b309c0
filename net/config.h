#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ops/activation.h"

namespace mbconv::net {

// An EfficientNet (Tan & Le 2019) by its scaling coefficients.
struct ModelConfig {
  std::string name = "b0";
  double width = 1.0, depth = 1.0;
  int resolution = 224;  // pixels a side
  double dropout = 0.2;  // before the classifier
  int classes = 1000;
  ops::Activation activation = ops::Activation::swish;
  // The published models have no expand convolution where the expansion is 1; with this they have.
  bool expand_at_ratio_1 = false;
};

// One MBConv block. Sizes are in channels and pixels.
struct BlockConfig {
  int stage, index;  // of the stage (0..6), of the block in its stage
  int in, expanded, out, reduced;
  int ksize, stride;
  bool expand;         // has an expand convolution
  bool residual;       // adds its input
  int size, out_size;  // map side before and after
};

// The network as data: everything that follows from a ModelConfig.
struct NetworkConfig {
  ModelConfig model;
  int stem_channels, stem_size;
  std::vector<BlockConfig> blocks;
  int head_channels, head_size;
};

// The published model of that name (b0..b8, l2) with 1,000 classes. Throws Error listing the names.
ModelConfig published_model(std::string_view name);
// "b0, b1, ..."
std::string model_names();

// Throws Error if a coefficient makes no network: width, depth <= 0, resolution < 1, classes < 1,
// dropout outside [0, 1).
NetworkConfig network_config(const ModelConfig& model);

// filters * width, rounded to the nearest multiple of 8, at least 8, and 8 more if that fell below
// 90 % of it.
int round_filters(int filters, double width);
// ceil(depth * repeats)
int round_repeats(int repeats, double depth);

struct Counts {
  int64_t parameters;  // trainable
  int64_t buffers;     // running means and variances
  int64_t macs;        // multiply-adds of a forward pass of one image, convolutions and classifier
  int64_t inference_macs;  // forward; squeeze-excite not counted
  int64_t training_macs;   // forward, input and filter gradients; squeeze-excite not counted
};
Counts count(const NetworkConfig& network);

}  // namespace mbconv::net
