#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "io/decode.h"
#include "lib/rng.h"

namespace mbconv::io {

// A float RGB picture in 0..255 on its way to the network, [height, width, 3].
struct FloatImage {
  int width = 0, height = 0;
  std::vector<float> pixels;
};

// Ranges of the random steps of recipe `sgd-cosine`. All are options of `train`.
struct AugmentRanges {
  float min_area = 0.08f, max_area = 1.0f;       // fraction of the picture
  float min_aspect = 0.75f, max_aspect = 1 / 0.75f;  // height over width
  float flip_probability = 0.5f;
  float rotation_degrees = 7;                    // angle uniform in +-
  float hue = 0.3f;                              // shift uniform in +-, fraction of the circle
  float min_saturation = 0.6f, max_saturation = 1.4f;
  float brightness = 0.3f;                       // offset uniform in +-, pixel units
  float pca_stddev = 0.1f;
};

struct Normalisation {
  std::array<float, 3> mean = {123.68f, 116.779f, 109.939f};
  std::array<float, 3> stddev = {58.393f, 57.12f, 57.375f};
};

// The random numbers of one sample, drawn before any pixel is touched.
struct AugmentDraw {
  int crop_x, crop_y, crop_width, crop_height;
  bool flip;
  float angle;  // radians
  float hue, saturation, brightness;
  std::array<float, 3> pca_alpha;
};

// Draws for a picture of width x height; a pure function of the ranges and the generator's state.
AugmentDraw draw_augmentation(int width, int height, const AugmentRanges& ranges, Rng& rng);

// The single steps, each as the recipe states it. Where TensorFlow has the op, results agree with it.
// bilinear: half-pixel centres, no antialiasing (tf.image.resize, method bilinear), of the crop
// [x, x + w) x [y, y + h) of an 8-bit picture.
FloatImage crop_resize(const Image& image, int x, int y, int w, int h, int out_width, int out_height);
void flip_horizontal(FloatImage& image);
// About the centre ((size - 1) / 2), nearest neighbour (halves away from zero), outside 0.
FloatImage rotate(const FloatImage& image, float angle);
void shift_hue(FloatImage& image, float shift);
void scale_saturation(FloatImage& image, float factor);
void shift_brightness(FloatImage& image, float offset);
void add_pca_noise(FloatImage& image, const std::array<float, 3>& alpha);
void normalise(const FloatImage& image, const Normalisation& normalisation, float* out);

// Training input: all steps of the draw in the recipe's order, to [size, size, 3] at `out`.
void augment(const Image& image, const AugmentDraw& draw, int size,
             const Normalisation& normalisation, float* out);

// Validation input: shorter side to `resize` pixels (the other int(other * (resize / shorter)) in
// double), central crop of size x size, normalise, to [size, size, 3] at `out`.
void prepare_validation(const Image& image, int resize, int size,
                        const Normalisation& normalisation, float* out);

}  // namespace mbconv::io
