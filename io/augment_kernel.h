#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "lib/isa.h"

namespace mbconv::io {

// The loops of augmentation over one row of RGB pixels. Pixels are 3 floats without a gap and are
// moved 4 floats at a time: a row that is read or written pixel by pixel has one float more.

// What the pixels of a stretched row read: (1 - weight) row[low] + weight row[high]. `low` and
// `high` are the places of a pixel's first float, [count] each.
struct ColumnTaps {
  const int *low, *high;
  const float* weight;
  int count;
};

// Output pixel (x, y) reads the nearest pixel to (c x - s y + xo, s x + c y + yo) of a picture of
// size x size, halves away from zero.
struct Rotation {
  float c, s, xo, yo;
  int size;
};

// Hue shift, saturation, offset and normalisation as one function of a pixel. With V the largest
// channel, R the largest less the smallest, and K = R times the hue in sixths of the circle:
//   f = clamp(2 R - ||K + turn R| - 3 R|, 0, R)
//   out = (V - f min(saturation, V / R) + offset) scale
// `turn` is the hue shift plus the channel's place on the circle minus 5, in [-5, 1); then f is how
// far the channel lies below V once the hue is shifted. A grey pixel has R = f = 0.
struct Colour {
  float turn[3];
  float saturation;
  float offset[3], scale[3];
};

// `places` has room for whole vectors of any level: `size` rounded up to a multiple of this.
inline constexpr int kPlacesMultiple = 16;

// One set of these for each ISA level, with equal results, bit for bit: nothing is fused.
struct AugmentKernels {
  // out[i] = source[i], [count]
  void (*convert)(const uint8_t* source, int count, float* out);
  // `row` to `out` [taps.count, 3] + 1
  void (*stretch)(const float* row, const ColumnTaps& taps, float* out);
  // out = low + (high - low) * weight, [count]
  void (*blend)(const float* low, const float* high, float weight, int count, float* out);
  // Row y of the rotated and coloured picture to `out` [size, 3]. `picture` is 4 zeros (read for
  // pixels from outside), then [size, size, 3] + 1. `places` [size rounded up] is scratch.
  void (*rotate_colour)(const float* picture, const Rotation& rotation, const Colour& colour, int y,
                        int* places, float* out);
  // out = (row - mean) * scale, [count]
  void (*normalise)(const float* row, const float* mean, const float* scale, int count, float* out);
};

struct AugmentVariant {
  Isa isa;
  std::string_view name;
  const AugmentKernels* kernels;
};

// Best first, ending in `generic`.
std::span<const AugmentVariant> augment_variants();

}  // namespace mbconv::io
