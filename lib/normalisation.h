#pragma once

#include <array>

namespace mbconv {

// How pixels in 0..255 become the network's input, per channel R, G, B: (value - mean) / stddev.
// A trained network needs the same numbers again.
struct Normalisation {
  std::array<float, 3> mean = {123.68f, 116.779f, 109.939f};
  std::array<float, 3> stddev = {58.393f, 57.12f, 57.375f};
};

}  // namespace mbconv
