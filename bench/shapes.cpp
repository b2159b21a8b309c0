#include "bench/shapes.h"

#include <algorithm>
#include <tuple>

#include "ops/dwconv.h"
#include "ops/stem.h"

namespace mbconv::bench {
namespace {

using Op = Layer::Op;

std::string block_name(const net::BlockConfig& b) {
  return "blocks." + std::to_string(b.stage) + "." + std::to_string(b.index);
}

Layer stem_layer(const net::NetworkConfig& network) {
  const int size = network.model.resolution;
  Layer stem{Op::stem,
             "stem",
             {1, size, size, 3, 3},
             ops::stem_output(1, size, size, network.stem_channels)};
  stem.ksize = 3;
  stem.stride = 2;
  return stem;
}

Layer head_layer(const net::NetworkConfig& network) {
  const int size = network.head_size;
  Layer conv{Op::conv1x1, "head", Shape::nhwc(1, size, size, network.blocks.back().out),
             Shape::nhwc(1, size, size, network.head_channels)};
  conv.pooled = true;
  return conv;
}

Layer pool_layer(const net::NetworkConfig& network) {
  Layer pool{Op::pool, "pool", head_layer(network).y, Shape::nhwc(1, 1, 1, network.head_channels)};
  pool.activation = network.model.activation;
  return pool;
}

Layer classifier_layer(const net::NetworkConfig& network) {
  Layer classifier{Op::conv1x1, "classifier", pool_layer(network).y,
                   Shape::nhwc(1, 1, 1, network.model.classes)};
  classifier.norm = false;
  return classifier;
}

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
    const std::string block = block_name(b) + ".";
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

  // The classifier is the same in inference.
  void add_inference(const net::NetworkConfig& network) {
    prefix_ += "inference.";
    add(finished(stem_layer(network)));
    for (const net::BlockConfig& b : network.blocks) {
      Layer block{Op::block, block_name(b), Shape::nhwc(1, b.size, b.size, b.in),
                  Shape::nhwc(1, b.out_size, b.out_size, b.out)};
      block.ksize = b.ksize;
      block.stride = b.stride;
      block.reduced = b.reduced;
      block.expanded = b.expand ? b.expanded : 0;
      block.residual = b.residual;
      add(finished(std::move(block)));
    }
    add(finished(head_layer(network)));
    add(finished(pool_layer(network)));
  }

  std::vector<Layer> take() { return std::move(layers_); }

 private:
  // A layer as inference runs it.
  Layer finished(Layer layer) const {
    layer.inference = true;
    layer.norm = false;
    layer.activation = activation_;
    return layer;
  }

  ops::Activation activation_;
  std::string prefix_;
  std::vector<Layer> layers_;
};

}  // namespace

bool Layer::same_work(const Layer& other) const {
  const auto key = [](const Layer& l) {
    return std::tie(l.op, l.ksize, l.stride, l.reduced, l.expanded, l.inference, l.norm,
                    l.activation, l.skip, l.residual, l.pooled);
  };
  return key(*this) == key(other) && x == other.x && y == other.y;
}

std::string Layer::shape_name(int n) const {
  const auto part = [](const char* letter, int value) {
    return std::string(letter) + std::to_string(value);
  };
  std::string text = part("n", n) + part("_h", x.h) + part("_w", x.w) + part("_c", x.c);
  if (op == Op::pool) return text;
  if (expanded > 0) text += part("_", expanded);
  if (op != Op::dwconv) text += part("_", y.c);
  if (op == Op::dwconv || op == Op::block) text += part("_k", ksize) + part("_s", stride);
  return text;
}

Shape Layer::wide() const {
  return expanded > 0 ? Shape::wide(x.n, x.h, x.w, expanded) : x;
}

size_t Layer::bytes() const {
  const size_t inside = op == Op::block ? ops::dwconv_output(wide(), stride).size() : 0;
  return (x.size() + inside + y.size()) * sizeof(float);
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
  all.add(stem_layer(network));
  ops::Activation activation = network.model.activation;
  bool skip = false;
  for (const net::BlockConfig& block : network.blocks) {
    all.add_block(block, activation, skip);
    activation = ops::Activation::linear;
    skip = block.residual;
  }
  Layer head = head_layer(network);
  head.skip = skip;
  all.add(std::move(head));
  all.add(pool_layer(network));
  all.add(classifier_layer(network));
  all.add_inference(network);
  return all.take();
}

net::NetworkConfig network(const std::string& model, int resolution) {
  net::ModelConfig config = net::published_model(model);
  config.resolution = resolution;
  return net::network_config(config);
}

}  // namespace mbconv::bench
