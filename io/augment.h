#pragma once

#include <array>
#include <vector>

#include "io/decode.h"
#include "lib/isa.h"
#include "lib/normalisation.h"
#include "lib/rng.h"

namespace mbconv::io {

// A float RGB picture in 0..255 on its way to the network, [height, width, 3].
struct FloatImage {
  int width = 0, height = 0;
  std::vector<float> pixels;
};

// A part of a picture: columns [x, x + width) of rows [y, y + height).
struct Rect {
  int x, y, width, height;
};

// Ranges of the random steps of recipe `sgd-cosine`. All are options of `train`.
struct AugmentRanges {
  float min_area = 0.08f, max_area = 1.0f;           // fraction of the picture
  float min_aspect = 0.75f, max_aspect = 1 / 0.75f;  // height over width
  float flip_probability = 0.5f;
  float rotation_degrees = 7;  // angle uniform in +-
  float hue = 0.3f;            // shift uniform in +-, fraction of the circle
  float min_saturation = 0.6f, max_saturation = 1.4f;
  float brightness = 0.3f;  // offset uniform in +-, pixel units
  float pca_stddev = 0.1f;
};

// Throws Error naming the first range that makes no sense.
void check_ranges(const AugmentRanges& ranges);

// The random numbers of one sample, drawn before any pixel is touched.
struct AugmentDraw {
  Rect crop;
  bool flip;
  float angle;  // radians
  float hue, saturation, brightness;
  std::array<float, 3> pca_alpha;
};

// Draws for a picture of width x height; a pure function of the ranges and the generator's state.
AugmentDraw draw_augmentation(int width, int height, const AugmentRanges& ranges, Rng& rng);

// What PCA noise adds to R, G and B, in pixel units.
std::array<float, 3> pca_noise(const std::array<float, 3>& alpha);

// The functions below give the same bits at every ISA level and are safe from several threads; each
// thread keeps its scratch memory. io/augment_ref.h has the steps one by one.

// Bilinear resize of a crop to out_width x out_height: half-pixel centres, no antialiasing
// (tf.image.resize, method bilinear), clamped at the crop's edges, not the picture's. `out` may
// keep the memory of an earlier picture.
void crop_resize(const Image& image, const Rect& crop, int out_width, int out_height,
                 FloatImage& out, Isa isa = select_isa());

// Training input: all steps of the draw in the recipe's order, to [size, size, 3] at `out`, in two
// sweeps over the pixels.
void augment(const Image& image, const AugmentDraw& draw, int size,
             const Normalisation& normalisation, float* out, Isa isa = select_isa());

// Validation input: shorter side to `resize` >= size pixels, the other to
// int(other * (resize / shorter)) in double, central crop of size x size, normalise, to
// [size, size, 3] at `out`.
void prepare_validation(const Image& image, int resize, int size,
                        const Normalisation& normalisation, float* out, Isa isa = select_isa());
// The recipe's `resize` for a network of `size` pixels a side: int(256 * size / 224).
int validation_resize(int size);

}  // namespace mbconv::io
