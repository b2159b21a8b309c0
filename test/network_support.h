#pragma once

// Networks and inputs that tests share.

#include <cstdint>
#include <vector>

#include "lib/rng.h"
#include "net/efficientnet.h"
#include "test/levels.h"

namespace mbconv::test {

// A narrow EfficientNet with every kind of block, small enough for `generic`.
inline net::ModelConfig narrow_model(int resolution = 32, int classes = 4) {
  net::ModelConfig model = net::published_model("b0");
  model.width = 0.25;
  model.resolution = resolution;
  model.classes = classes;
  return model;
}

// `count` images of the network's size, uniform in +-1.7, and labels 0, 1, 2, ...
struct Images {
  std::vector<float> pixels;
  std::vector<int32_t> labels;

  Images(const net::ModelConfig& model, int count, uint64_t seed = 1) {
    Rng rng(seed, 0, 0, Purpose::synthetic);
    pixels.resize(static_cast<size_t>(count) * static_cast<size_t>(model.resolution) *
                  static_cast<size_t>(model.resolution) * 3);
    for (float& p : pixels) p = rng.uniform(-1.7f, 1.7f);
    for (int i = 0; i < count; ++i) labels.push_back(i % model.classes);
  }
};

}  // namespace mbconv::test
