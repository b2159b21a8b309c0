// The loops of augmentation at one ISA level: see io/augment_simd.h. Loops over rows are left to
// the compiler to vectorise; where each pixel has an address of its own, it is loaded and stored as
// a whole and transposed within lanes.

#include "io/augment_kernel.h"

#include "io/augment_simd.h"

namespace mbconv::io::MBCONV_LEVEL {

extern const AugmentKernels kernels;

namespace {

constexpr int kChannels = 3;

// Exact for all values: adding a half first would round 0.49999997f up.
inline int round_half_away(float value) {
  const int whole = static_cast<int>(value);
  const float rest = value - static_cast<float>(whole);
  return whole + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0);
}

void convert(const uint8_t* __restrict source, int count, float* __restrict out) {
  for (int i = 0; i < count; ++i) out[i] = static_cast<float>(source[i]);
}

// 5 loads and a store for 3 operations a pixel: bound by the 2 or 3 loads a cycle.
void stretch(const float* __restrict row, const ColumnTaps& taps, float* __restrict out) {
  const auto [lows, highs, weights, count] = taps;
  for (int i = 0; i < count; ++i) {
    const Pixel low = load(row + lows[i]), high = load(row + highs[i]);
    store(out + kChannels * i, low + (high - low) * _mm_set1_ps(weights[i]));
  }
}

void blend(const float* __restrict low, const float* __restrict high, float weight, int count,
           float* __restrict out) {
  for (int i = 0; i < count; ++i) out[i] = low[i] + (high[i] - low[i]) * weight;
}

// Where in `picture` the pixels of a row lie.
void find_places(const Rotation& rotation, int y, int* __restrict places) {
  const auto [c, s, xo, yo, size] = rotation;
  // The float arithmetic is that of TensorFlow's ImageProjectiveTransformV3, so that the same
  // pixels lie on the edge between two neighbours.
  const float row_x = -s * static_cast<float>(y), row_y = c * static_cast<float>(y);
  const auto side = static_cast<unsigned>(size);
  for (int x = 0; x < size; ++x) {
    const int from_x = round_half_away(c * static_cast<float>(x) + row_x + xo);
    const int from_y = round_half_away(s * static_cast<float>(x) + row_y + yo);
    const bool inside =
        (static_cast<unsigned>(from_x) < side) & (static_cast<unsigned>(from_y) < side);
    places[x] = inside ? 4 + kChannels * (from_y * size + from_x) : 0;
  }
  for (int x = size; x % kPlacesMultiple != 0; ++x) places[x] = 0;
}

// kWidth pixels, a channel a register.
struct Pixels {
  V r, g, b;
};

inline Pixels load_pixels(const float* picture, const int* places) {
  const V p0 = load_lanes(picture, places), p1 = load_lanes(picture, places + 1);
  const V p2 = load_lanes(picture, places + 2), p3 = load_lanes(picture, places + 3);
  const V rg01 = unpack_low(p0, p1), rg23 = unpack_low(p2, p3);
  return {shuffle<0, 1, 0, 1>(rg01, rg23), shuffle<2, 3, 2, 3>(rg01, rg23),
          shuffle<0, 1, 0, 1>(unpack_high(p0, p1), unpack_high(p2, p3))};
}

inline void store_pixels(const Pixels& p, float* out) {
  constexpr int kLane = 4 * kChannels;
  const V rg01 = unpack_low(p.r, p.g), rg23 = unpack_high(p.r, p.g);
  const V b0r1 = shuffle<0, 0, 1, 1>(p.b, p.r), g1b1 = shuffle<1, 1, 1, 1>(p.g, p.b);
  const V b2r3 = shuffle<2, 2, 3, 3>(p.b, p.r), g3b3 = shuffle<3, 3, 3, 3>(p.g, p.b);
  store_lanes(out, kLane, shuffle<0, 1, 0, 2>(rg01, b0r1));
  store_lanes(out + 4, kLane, shuffle<0, 2, 0, 1>(g1b1, rg23));
  store_lanes(out + 8, kLane, shuffle<0, 2, 0, 2>(b2r3, g3b3));
}

// About 50 operations and a division, in 9 registers of constants.
inline Pixels colour_pixels(const Pixels& p, const Colour& k) {
  const V value = largest(largest(p.r, p.g), p.b);
  const V range = value - smallest(smallest(p.r, p.g), p.b);
  const V twice = range + range, thrice = twice + range;
  // Times `range`, as everything on the hue circle here.
  const V hue = if_equal(value, p.r, p.g - p.b,
                         if_equal(value, p.g, twice + (p.b - p.r), twice + twice + (p.r - p.g)));
  const V factor = smallest(value / largest(range, broadcast(1e-30f)), broadcast(k.saturation));
  const auto channel = [&](int c) {
    const V distance = absolute(absolute(hue + broadcast(k.turn[c]) * range) - thrice);
    const V below = smallest(largest(twice - distance, broadcast(0.0f)), range);
    return (value - below * factor + broadcast(k.offset[c])) * broadcast(k.scale[c]);
  };
  return {channel(0), channel(1), channel(2)};
}

void rotate_colour(const float* picture, const Rotation& rotation, const Colour& colour, int y,
                   int* places, float* out) {
  find_places(rotation, y, places);
  const Colour k = colour;
  int x = 0;
  for (; x + kWidth <= rotation.size; x += kWidth) {
    store_pixels(colour_pixels(load_pixels(picture, places + x), k), out + kChannels * x);
  }
  if (x == rotation.size) return;
  float rest[kChannels * kWidth];
  store_pixels(colour_pixels(load_pixels(picture, places + x), k), rest);
  for (int i = 0; i < kChannels * (rotation.size - x); ++i) out[kChannels * x + i] = rest[i];
}

void normalise(const float* __restrict row, const float* __restrict mean,
               const float* __restrict scale, int count, float* __restrict out) {
  for (int i = 0; i < count; ++i) out[i] = (row[i] - mean[i]) * scale[i];
}

}  // namespace

constinit const AugmentKernels kernels = {convert, stretch, blend, rotate_colour, normalise};

}  // namespace mbconv::io::MBCONV_LEVEL
