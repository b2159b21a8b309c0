#include "io/augment_ref.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace mbconv::io::ref {
namespace {

constexpr int kChannels = 3;

size_t values_of(int width, int height) {
  return size_t{kChannels} * static_cast<size_t>(width) * static_cast<size_t>(height);
}

void set_size(FloatImage& image, int width, int height) {
  image.width = width;
  image.height = height;
  image.pixels.resize(values_of(width, height));
}

float* row_of(FloatImage& image, int y) {
  return image.pixels.data() + values_of(image.width, y);
}

// Calls body(pixel) for each pixel's three values.
template <class Body>
void for_each_pixel(FloatImage& image, const Body& body) {
  float* const end = image.pixels.data() + image.pixels.size();
  for (float* p = image.pixels.data(); p != end; p += kChannels) body(p);
}

// Exact for all values: adding a half first would round 0.49999997f up.
int round_half_away(float value) {
  const int whole = static_cast<int>(value);
  const float rest = value - static_cast<float>(whole);
  return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

}  // namespace

void crop_resize(const Image& image, const Rect& crop, int out_width, int out_height,
                 FloatImage& out) {
  set_size(out, out_width, out_height);
  const float scale_x = static_cast<float>(crop.width) / static_cast<float>(out_width);
  const float scale_y = static_cast<float>(crop.height) / static_cast<float>(out_height);
  const auto value_at = [&](float x, float y, int c) -> float {
    const int column = crop.x + std::clamp(static_cast<int>(x), 0, crop.width - 1);
    const int row = crop.y + std::clamp(static_cast<int>(y), 0, crop.height - 1);
    return image
        .pixels[values_of(image.width, row) + values_of(column, 1) + static_cast<size_t>(c)];
  };
  for (int y = 0; y < out_height; ++y) {
    const float from_y = (static_cast<float>(y) + 0.5f) * scale_y - 0.5f;
    const float top = std::floor(from_y), bottom = std::ceil(from_y);
    for (int x = 0; x < out_width; ++x) {
      const float from_x = (static_cast<float>(x) + 0.5f) * scale_x - 0.5f;
      const float left = std::floor(from_x), right = std::ceil(from_x);
      const auto across = [&](float row, int c) {
        const float low = value_at(left, row, c), high = value_at(right, row, c);
        return low + (high - low) * (from_x - left);
      };
      for (int c = 0; c < kChannels; ++c) {
        const float low = across(top, c), high = across(bottom, c);
        row_of(out, y)[kChannels * x + c] = low + (high - low) * (from_y - top);
      }
    }
  }
}

void flip_horizontal(FloatImage& image) {
  for (int y = 0; y < image.height; ++y) {
    float* left = row_of(image, y);
    float* right = left + values_of(image.width, 1) - kChannels;
    for (; left < right; left += kChannels, right -= kChannels) {
      std::swap_ranges(left, left + kChannels, right);
    }
  }
}

void rotate(const FloatImage& image, float angle, FloatImage& out) {
  set_size(out, image.width, image.height);
  const double cosine = std::cos(double{angle}), sine = std::sin(double{angle});
  const double last_x = image.width - 1, last_y = image.height - 1;
  // The float arithmetic from here on is that of TensorFlow's ImageProjectiveTransformV3, so that
  // the same pixels lie on the edge between two neighbours.
  const auto xo = static_cast<float>((last_x - (cosine * last_x - sine * last_y)) / 2);
  const auto yo = static_cast<float>((last_y - (sine * last_x + cosine * last_y)) / 2);
  const auto c = static_cast<float>(cosine), s = static_cast<float>(sine);
  for (int y = 0; y < image.height; ++y) {
    float* to = row_of(out, y);
    const float row_x = -s * static_cast<float>(y), row_y = c * static_cast<float>(y);
    for (int x = 0; x < image.width; ++x, to += kChannels) {
      const int from_x = round_half_away(c * static_cast<float>(x) + row_x + xo);
      const int from_y = round_half_away(s * static_cast<float>(x) + row_y + yo);
      const bool inside =
          0 <= from_x && from_x < image.width && 0 <= from_y && from_y < image.height;
      if (inside) {
        const float* from =
            image.pixels.data() + values_of(image.width, from_y) + values_of(from_x, 1);
        std::copy_n(from, kChannels, to);
      } else {
        std::fill_n(to, kChannels, 0.0f);
      }
    }
  }
}

void shift_hue(FloatImage& image, float shift) {
  const float turn = 6 * (shift - std::floor(shift));  // hue counts 6 to the circle here
  for_each_pixel(image, [turn](float* p) {
    const float r = p[0], g = p[1], b = p[2];
    const float value = std::max(r, std::max(g, b));
    const float range = value - std::min(r, std::min(g, b));
    const float scale = range > 0 ? 1 / range : 0.0f;  // grey has no hue, and needs none
    const float from_red = (g - b) * scale;
    const float from_green = 2 + (b - r) * scale;
    const float from_blue = 4 + (r - g) * scale;
    float hue = turn + (value == r ? from_red : value == g ? from_green : from_blue);
    hue = hue < 0 ? hue + 6 : hue;
    hue = hue >= 6 ? hue - 6 : hue;
    // A channel is at its lowest for a third of the circle, at its highest for another, and on a
    // ramp between; `lead` is how far it runs ahead of the hue.
    const auto channel = [=](float lead) {
      const float sum = hue + lead;
      const float k = sum >= 6 ? sum - 6 : sum;
      return value - range * std::max(0.0f, std::min(1.0f, std::min(k, 4 - k)));
    };
    p[0] = channel(5);
    p[1] = channel(3);
    p[2] = channel(1);
  });
}

void scale_saturation(FloatImage& image, float factor) {
  const float positive = std::max(factor, 0.0f);
  for_each_pixel(image, [positive](float* p) {
    const float value = std::max({p[0], p[1], p[2]});
    const float range = value - std::min({p[0], p[1], p[2]});
    // With hue and value kept, each channel's distance from the value is proportional to the
    // saturation range / value, which is 1 at most.
    const float scale = value > 0 ? std::min(positive, value / range) : 0.0f;
    for (int c = 0; c < kChannels; ++c) p[c] = value + (p[c] - value) * scale;
  });
}

void shift_brightness(FloatImage& image, float offset) {
  for (float& value : image.pixels) value += offset;
}

void add_pca_noise(FloatImage& image, const std::array<float, 3>& alpha) {
  const std::array<float, 3> offset = pca_noise(alpha);
  for_each_pixel(image, [&offset](float* p) {
    for (size_t c = 0; c < 3; ++c) p[c] += offset[c];
  });
}

void normalise(const FloatImage& image, const Normalisation& normalisation, float* out) {
  const auto& [mean, stddev] = normalisation;
  for (size_t i = 0; i < image.pixels.size(); i += kChannels) {
    for (size_t c = 0; c < kChannels; ++c) out[i + c] = (image.pixels[i + c] - mean[c]) / stddev[c];
  }
}

void augment(const Image& image, const AugmentDraw& draw, int size,
             const Normalisation& normalisation, float* out) {
  FloatImage picture, rotated;
  ref::crop_resize(image, draw.crop, size, size, picture);
  if (draw.flip) flip_horizontal(picture);
  rotate(picture, draw.angle, rotated);
  shift_hue(rotated, draw.hue);
  scale_saturation(rotated, draw.saturation);
  shift_brightness(rotated, draw.brightness);
  add_pca_noise(rotated, draw.pca_alpha);
  normalise(rotated, normalisation, out);
}

void prepare_validation(const Image& image, int resize, int size,
                        const Normalisation& normalisation, float* out) {
  const double scale = static_cast<double>(resize) / std::min(image.width, image.height);
  const bool upright = image.width <= image.height;
  const auto other = [&](int side) { return std::max(size, static_cast<int>(side * scale)); };
  const int width = upright ? resize : other(image.width);
  const int height = upright ? other(image.height) : resize;
  FloatImage whole, centre;
  ref::crop_resize(image, {0, 0, image.width, image.height}, width, height, whole);
  set_size(centre, size, size);
  const int x = (width - size) / 2, y = (height - size) / 2;
  for (int i = 0; i < size; ++i) {
    std::copy_n(row_of(whole, y + i) + values_of(x, 1), values_of(size, 1), row_of(centre, i));
  }
  normalise(centre, normalisation, out);
}

}  // namespace mbconv::io::ref
