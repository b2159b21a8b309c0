#pragma once

#include <array>

#include "io/augment.h"

// The steps of augmentation, each as the recipe states it, one after the other on whole pictures:
// the specification of io/augment.h, for tests. Where TensorFlow has the op, results agree with it.
// `out` may keep the memory of an earlier picture; it must not be the input.
namespace mbconv::io::ref {

// Bilinear resize of a crop to out_width x out_height: half-pixel centres, no antialiasing
// (tf.image.resize, method bilinear), clamped at the crop's edges, not the picture's.
void crop_resize(const Image& image, const Rect& crop, int out_width, int out_height,
                 FloatImage& out);
void flip_horizontal(FloatImage& image);
// About the centre ((size - 1) / 2), nearest neighbour (halves away from zero), outside 0: output
// pixel (x, y) reads (c x - s y + xo, s x + c y + yo) with c, s = cos, sin of `angle` in radians.
void rotate(const FloatImage& image, float angle, FloatImage& out);
// `shift` is a fraction of the hue circle (tf.image.adjust_hue).
void shift_hue(FloatImage& image, float shift);
// HSV saturation times `factor`, clipped to [0, 1] (tf.image.adjust_saturation).
void scale_saturation(FloatImage& image, float factor);
void shift_brightness(FloatImage& image, float offset);
void add_pca_noise(FloatImage& image, const std::array<float, 3>& alpha);
// To [height, width, 3] at `out`.
void normalise(const FloatImage& image, const Normalisation& normalisation, float* out);

// io::augment and io::prepare_validation, step by step.
void augment(const Image& image, const AugmentDraw& draw, int size,
             const Normalisation& normalisation, float* out);
void prepare_validation(const Image& image, int resize, int size,
                        const Normalisation& normalisation, float* out);

}  // namespace mbconv::io::ref
