#pragma once

// The numbers behind the network fixtures, generated as test/data/network_values.py says, bit for
// bit.

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "lib/rng.h"
#include "net/checkpoint.h"

namespace mbconv::test {

inline constexpr uint64_t kFixtureSeed = 1;
inline constexpr int kProjections = 16, kFixtureClasses = 10, kFixtureBatch = 4;
inline constexpr int kPicture = 48, kPictureCell = 8;
inline constexpr uint64_t kRunningSamples = 500000, kImageSample = 1000000;
inline constexpr uint64_t kPatternSamples = 2000000, kNoiseSamples = 3000000;

// Uniform in [-1, 1), exact.
class Symmetric {
 public:
  explicit Symmetric(uint64_t sample) : rng_(kFixtureSeed, 0, sample, Purpose::synthetic) {}
  float operator()() { return 2.0f * rng_.uniform() - 1.0f; }

 private:
  Rng rng_;
};

inline bool is_running(const std::string& name) {
  return name.find("running_") != std::string::npos;
}

inline void generate_parameter(NamedTensor& t, uint64_t number, bool expand) {
  Symmetric s(number);
  float* v = t.values<float>();
  const auto& shape = t.shape;
  const bool batch_norm = t.name.find("bn") != std::string::npos;
  const bool projection =
      t.name.find(".bn3.") != std::string::npos ||
      (!expand && t.name.starts_with("blocks.0.") && t.name.find(".bn2.") != std::string::npos);
  const float gain = projection ? (t.name[9] == '0' ? 16.0f : 4.0f) : 1.0f;
  for (int64_t i = 0; i < t.count(); ++i) {
    if (shape.size() == 4) {
      v[i] =
          static_cast<float>(std::sqrt(6.0 / static_cast<double>(shape[1] * shape[2] * shape[3]))) *
          s();
    } else if (shape.size() == 2) {
      v[i] = static_cast<float>(std::sqrt(3.0 / static_cast<double>(shape[1]))) * s();
    } else if (batch_norm && t.name.ends_with(".weight")) {
      v[i] = gain * (1.0f + 0.1f * s());
    } else {
      v[i] = gain * (0.1f * s());
    }
  }
}

inline void generate_running(NamedTensor& t, uint64_t number) {
  Symmetric s(kRunningSamples + number);
  const bool reads_block = t.name.starts_with("bn2.") ||
                           (t.name.starts_with("blocks.") && !t.name.starts_with("blocks.0.") &&
                            t.name.find(".bn1.") != std::string::npos);
  const float scale = reads_block ? 512.0f : 0.5f;
  for (int64_t i = 0; i < t.count(); ++i) {
    t.values<float>()[i] = t.name.ends_with("mean") ? 0.125f * s() : scale * (1.0f + 0.5f * s());
  }
}

// All parameters and running statistics of B0; `tensors` comes with names and shapes.
inline void generate_b0(std::vector<NamedTensor>& tensors, bool expand) {
  uint64_t trainable = 0, running = 0;
  for (NamedTensor& t : tensors) {
    if (t.dtype != Dtype::f32) continue;
    if (is_running(t.name)) {
      generate_running(t, running++);
    } else {
      generate_parameter(t, trainable++, expand);
    }
  }
}

inline std::vector<float> b0_images(int resolution) {
  std::vector<float> images(static_cast<size_t>(kFixtureBatch * resolution * resolution * 3));
  Symmetric s(kImageSample);
  for (float& v : images) v = 1.7f * s();
  return images;
}

// Pictures first, first + 1, ... for the narrow network, [count,48,48,3].
inline std::vector<float> pictures(int64_t first, int count) {
  std::vector<float> images;
  constexpr int kCells = kPicture / kPictureCell;
  for (int64_t i = first; i < first + count; ++i) {
    Symmetric pattern(kPatternSamples + static_cast<uint64_t>(i % kFixtureClasses));
    Symmetric noise(kNoiseSamples + static_cast<uint64_t>(i));
    float cells[kCells * kCells * 3];
    for (float& c : cells) c = pattern();
    for (int y = 0; y < kPicture; ++y) {
      for (int x = 0; x < kPicture; ++x) {
        for (int c = 0; c < 3; ++c) {
          images.push_back(0.5f * cells[(y / kPictureCell * kCells + x / kPictureCell) * 3 + c] +
                           1.2f * noise());
        }
      }
    }
  }
  return images;
}

// Random-sign projections of x: of the difference of two vectors, the root mean square of the
// differences of their projections estimates the norm.
inline std::vector<double> projections(const std::vector<double>& x, uint64_t sample) {
  std::vector<double> p(kProjections, 0.0);
  Rng rng(kFixtureSeed, 1, sample, Purpose::synthetic);
  for (const double v : x) {
    const uint32_t bits = rng.next();
    for (int k = 0; k < kProjections; ++k)
      p[static_cast<size_t>(k)] += (bits >> k & 1) != 0 ? -v : v;
  }
  return p;
}

}  // namespace mbconv::test
