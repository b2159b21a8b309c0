#include "bench/shapes.h"

#include <algorithm>
#include <tuple>

#include "ops/dwconv.h"
#include "ops/stem.h"

namespace mbconv::bench {
namespace {

using Op = Layer::Op;

// Collects layers; `prefix` names the network.
class Collector {
 public:
  explicit Collector(const net::NetworkConfig& network)
      : activation_(network.model.activation),
        prefix_(network.model.name + "_r" + std::to_string(network.model.resolution) + "_") {}

  void add(Layer layer) {
    layer.name = prefix_ + layer.name;
    for (const Layer& known : layers_) {
      if (known.same_work(layer)) return;
    }
    layers_.push_back(std::move(layer));
  }

  // The layers of a block whose input has `activation` and, with `skip`, a skip pending on it.
  void add_block(const net::BlockConfig& b, ops::Activation activation, bool skip) {
    const std::string block =
        "blocks." + std::to_string(b.stage) + "." + std::to_string(b.index) + ".";
    Layer first{Op::dwconv, "", Shape::nhwc(1, b.size, b.size, b.in), {}};
    first.activation = activation;
    first.skip = skip;
    first.residual = b.residual;
    Layer depthwise = first;
    if (b.expand) {
      Layer expand = first;
      expand.op = Op::conv1x1;
      expand.name = block + "expand";
      expand.y = Shape::wide(1, b.size, b.size, b.expanded);
      depthwise = Layer{Op::dwconv, "", expand.y, {}};
      depthwise.activation = activation_;
      add(std::move(expand));
    }
    depthwise.name = block + "depthwise";
    depthwise.y = ops::dwconv_output(depthwise.x, b.stride);
    depthwise.ksize = b.ksize;
    depthwise.stride = b.stride;
    Layer project{Op::project, block + "project", depthwise.y,
                  Shape::nhwc(1, b.out_size, b.out_size, b.out)};
    project.reduced = b.reduced;
    project.activation = activation_;
    add(std::move(depthwise));
    add(std::move(project));
  }

  void add_head(const net::NetworkConfig& network, bool skip) {
    const int size = network.head_size, channels = network.head_channels;
    const Shape y = Shape::nhwc(1, size, size, channels);
    Layer conv{Op::conv1x1, "head", Shape::nhwc(1, size, size, network.blocks.back().out), y};
    conv.skip = skip;
    conv.pooled = true;
    add(std::move(conv));
    Layer pool{Op::pool, "pool", y, Shape::nhwc(1, 1, 1, channels)};
    pool.activation = activation_;
    Layer classifier{Op::conv1x1, "classifier", pool.y,
                     Shape::nhwc(1, 1, 1, network.model.classes)};
    classifier.norm = false;
    add(std::move(pool));
    add(std::move(classifier));
  }

  std::vector<Layer> take() { return std::move(layers_); }

 private:
  ops::Activation activation_;
  std::string prefix_;
  std::vector<Layer> layers_;
};

}  // namespace

bool Layer::same_work(const Layer& other) const {
  const auto key = [](const Layer& l) {
    return std::tie(l.op, l.ksize, l.stride, l.reduced, l.norm, l.activation, l.skip, l.residual,
                    l.pooled);
  };
  return key(*this) == key(other) && x == other.x && y == other.y;
}

std::string Layer::shape_name(int n) const {
  const auto part = [](const char* letter, int value) {
    return std::string(letter) + std::to_string(value);
  };
  std::string text = part("n", n) + part("_h", x.h) + part("_w", x.w) + part("_c", x.c);
  if (op == Op::pool) return text;
  if (op == Op::dwconv) return text + part("_k", ksize) + part("_s", stride);
  return text + part("_", y.c);
}

Layer Layer::cropped(int lines) const {
  Layer layer = *this;
  layer.x.h = std::min(x.h, lines * stride);
  if (op != Op::pool) layer.y.h = ceil_div(layer.x.h, stride);
  return layer;
}

Layer Layer::of_channels(int channels) const {
  Layer layer = *this;
  layer.x = Shape::wide(x.n, x.h, x.w, std::min(x.c, channels));
  layer.y = Shape::wide(y.n, y.h, y.w, std::min(y.c, channels));
  return layer;
}

std::vector<Layer> layers(const net::NetworkConfig& network) {
  Collector all(network);
  const int size = network.model.resolution;
  Layer stem{Op::stem,
             "stem",
             {1, size, size, 3, 3},
             ops::stem_output(1, size, size, network.stem_channels)};
  stem.ksize = 3;
  stem.stride = 2;
  all.add(std::move(stem));
  ops::Activation activation = network.model.activation;
  bool skip = false;
  for (const net::BlockConfig& block : network.blocks) {
    all.add_block(block, activation, skip);
    activation = ops::Activation::linear;
    skip = block.residual;
  }
  all.add_head(network, skip);
  return all.take();
}

net::NetworkConfig network(const std::string& model, int resolution) {
  net::ModelConfig config = net::published_model(model);
  config.resolution = resolution;
  return net::network_config(config);
}

}  // namespace mbconv::bench
