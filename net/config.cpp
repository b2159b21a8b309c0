#include "net/config.h"

#include <algorithm>
#include <cmath>

#include "lib/error.h"
#include "ops/padding.h"

namespace mbconv::net {
namespace {

struct Published {
  std::string_view name;
  double width, depth;
  int resolution;
  double dropout;
};
constexpr Published kPublished[] = {
    {"b0", 1.0, 1.0, 224, 0.2}, {"b1", 1.0, 1.1, 240, 0.2}, {"b2", 1.1, 1.2, 260, 0.3},
    {"b3", 1.2, 1.4, 300, 0.3}, {"b4", 1.4, 1.8, 380, 0.4}, {"b5", 1.6, 2.2, 456, 0.4},
    {"b6", 1.8, 2.6, 528, 0.5}, {"b7", 2.0, 3.1, 600, 0.5}, {"b8", 2.2, 3.6, 672, 0.5},
    {"l2", 4.3, 5.3, 800, 0.5},
};

struct Stage {
  int filters, ksize, stride, expand_ratio, repeats;
};
constexpr Stage kStages[] = {
    {16, 3, 1, 1, 1},  {24, 3, 2, 6, 2},  {40, 5, 2, 6, 2},  {80, 3, 2, 6, 3},
    {112, 5, 1, 6, 3}, {192, 5, 2, 6, 4}, {320, 3, 1, 6, 1},
};
constexpr int kStemFilters = 32, kHeadFilters = 1280;
constexpr double kSeRatio = 0.25;

void check(const ModelConfig& m) {
  require(m.width > 0 && m.width <= 100, "the width coefficient must be > 0 and at most 100, got ",
          m.width);
  require(m.depth > 0 && m.depth <= 100, "the depth coefficient must be > 0 and at most 100, got ",
          m.depth);
  require(m.resolution >= 1 && m.resolution <= 10000,
          "the resolution must be between 1 and 10000 pixels, got ", m.resolution);
  require(m.classes >= 1, "the number of classes must be at least 1, got ", m.classes);
  require(m.dropout >= 0 && m.dropout < 1, "dropout must be at least 0 and below 1, got ",
          m.dropout);
}

}  // namespace

std::string model_names() {
  std::string names;
  for (const Published& p : kPublished) {
    if (!names.empty()) names += ", ";
    names += p.name;
  }
  return names;
}

ModelConfig published_model(std::string_view name) {
  for (const Published& p : kPublished) {
    if (p.name != name) continue;
    ModelConfig model;
    model.name = p.name;
    model.width = p.width;
    model.depth = p.depth;
    model.resolution = p.resolution;
    model.dropout = p.dropout;
    return model;
  }
  throw Error("unknown model '", name, "'; expected one of ", model_names());
}

int round_filters(int filters, double width) {
  const double scaled = filters * width;
  const int rounded = std::max(8, static_cast<int>(scaled + 4) / 8 * 8);
  return rounded < 0.9 * scaled ? rounded + 8 : rounded;
}

int round_repeats(int repeats, double depth) {
  return static_cast<int>(std::ceil(depth * repeats));
}

NetworkConfig network_config(const ModelConfig& model) {
  check(model);
  NetworkConfig network;
  network.model = model;
  network.stem_channels = round_filters(kStemFilters, model.width);
  network.stem_size = ops::same_padding(model.resolution, 3, 2).outputs;
  int channels = network.stem_channels, size = network.stem_size;
  for (int s = 0; s < static_cast<int>(std::size(kStages)); ++s) {
    const Stage& stage = kStages[s];
    for (int i = 0; i < round_repeats(stage.repeats, model.depth); ++i) {
      BlockConfig b;
      b.stage = s;
      b.index = i;
      b.in = channels;
      b.expanded = channels * stage.expand_ratio;
      b.out = round_filters(stage.filters, model.width);
      b.reduced = std::max(1, static_cast<int>(channels * kSeRatio));
      b.ksize = stage.ksize;
      b.stride = i == 0 ? stage.stride : 1;
      b.expand = stage.expand_ratio > 1 || model.expand_at_ratio_1;
      b.residual = b.stride == 1 && b.in == b.out;
      b.size = size;
      b.out_size = ops::same_padding(size, b.ksize, b.stride).outputs;
      network.blocks.push_back(b);
      channels = b.out;
      size = b.out_size;
    }
  }
  network.head_channels = round_filters(kHeadFilters, model.width);
  network.head_size = size;
  return network;
}

Counts count(const NetworkConfig& network) {
  Counts n{};
  int64_t stem_macs = 0;
  const auto convolution = [&](int64_t weights, int out, int64_t macs) {
    n.parameters += weights + 2 * out;  // batch norm's gamma and beta
    n.buffers += 2 * out;
    n.macs += macs;
  };
  const auto area = [](int size) { return int64_t{size} * size; };
  stem_macs = area(network.stem_size) * 27 * network.stem_channels;
  convolution(27 * network.stem_channels, network.stem_channels, stem_macs);
  for (const BlockConfig& b : network.blocks) {
    const int64_t expand = int64_t{b.in} * b.expanded, project = int64_t{b.expanded} * b.out;
    const int64_t depthwise = int64_t{b.ksize} * b.ksize * b.expanded;
    if (b.expand) convolution(expand, b.expanded, area(b.size) * expand);
    convolution(depthwise, b.expanded, area(b.out_size) * depthwise);
    convolution(project, b.out, area(b.out_size) * project);
    n.parameters += 2 * int64_t{b.reduced} * b.expanded + b.reduced + b.expanded;
  }
  const int64_t head = int64_t{network.blocks.back().out} * network.head_channels;
  convolution(head, network.head_channels, area(network.head_size) * head);
  const int64_t dense = int64_t{network.head_channels} * network.model.classes;
  n.parameters += dense + network.model.classes;
  n.macs += dense;
  n.inference_macs = n.macs;
  n.training_macs = 3 * n.macs - stem_macs;
  for (const BlockConfig& b : network.blocks) n.macs += 2 * int64_t{b.reduced} * b.expanded;
  return n;
}

}  // namespace mbconv::net
