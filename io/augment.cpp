#include "io/augment.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "lib/error.h"

namespace mbconv::io {
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

// What an output pixel reads along one axis: (1 - weight) * source[low] + weight * source[high].
struct Tap {
  int low, high;
  float weight;
};

// Memory of one thread, kept from picture to picture.
struct Scratch {
  std::vector<Tap> columns, rows;
  std::vector<float> stretched[2];
  FloatImage picture, rotated;
};
thread_local Scratch scratch;

// Taps of the pixels [first, first + count) of an axis resized from `in` to `out` pixels, in the
// float arithmetic of TensorFlow's op.
void make_taps(int in, int out, int first, int count, std::vector<Tap>& taps) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  taps.resize(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    const float centre = (static_cast<float>(first + i) + 0.5f) * scale - 0.5f;
    const float floor = std::floor(centre);
    taps[static_cast<size_t>(i)] = {std::clamp(static_cast<int>(floor), 0, in - 1),
                                    std::clamp(static_cast<int>(std::ceil(centre)), 0, in - 1),
                                    centre - floor};
  }
}

void stretch_row(const uint8_t* source, const std::vector<Tap>& taps, float* out) {
  for (const Tap& tap : taps) {
    const uint8_t* low = source + kChannels * tap.low;
    const uint8_t* high = source + kChannels * tap.high;
    for (int c = 0; c < kChannels; ++c) {
      const float value = low[c];
      *out++ = value + (static_cast<float>(high[c]) - value) * tap.weight;
    }
  }
}

// The part `window` of the picture that `crop` becomes when resized to full_width x full_height.
void resize_window(const Image& image, const Rect& crop, int full_width, int full_height,
                   const Rect& window, FloatImage& out) {
  require(crop.x >= 0 && crop.y >= 0 && crop.width >= 1 && crop.height >= 1 &&
              crop.width <= image.width - crop.x && crop.height <= image.height - crop.y,
          "a crop of ", crop.width, " x ", crop.height, " at (", crop.x, ", ", crop.y,
          ") does not lie in a picture of ", image.width, " x ", image.height);
  require(window.width >= 1 && window.height >= 1, "cannot resize a picture to ", full_width, " x ",
          full_height);
  Scratch& s = scratch;
  make_taps(crop.width, full_width, window.x, window.width, s.columns);
  make_taps(crop.height, full_height, window.y, window.height, s.rows);
  set_size(out, window.width, window.height);
  const size_t row_values = values_of(window.width, 1);

  // Source rows stretched to the output's width. The two rows of a tap are neighbours or the same,
  // so they have different places or share one.
  int held[2] = {-1, -1};
  const auto stretched = [&](int row) {
    std::vector<float>& place = s.stretched[row % 2];
    if (held[row % 2] != row) {
      place.resize(row_values);
      const size_t begin = values_of(image.width, crop.y + row) + values_of(crop.x, 1);
      stretch_row(image.pixels.data() + begin, s.columns, place.data());
      held[row % 2] = row;
    }
    return place.data();
  };
  for (int y = 0; y < window.height; ++y) {
    const Tap& tap = s.rows[static_cast<size_t>(y)];
    const float* low = stretched(tap.low);
    const float* high = stretched(tap.high);
    float* to = row_of(out, y);
    for (size_t i = 0; i < row_values; ++i) to[i] = low[i] + (high[i] - low[i]) * tap.weight;
  }
}

// Exact for all values: adding a half first would round 0.49999997f up.
int round_half_away(float value) {
  const int whole = static_cast<int>(value);
  const float rest = value - static_cast<float>(whole);
  return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

}  // namespace

void check_ranges(const AugmentRanges& r) {
  const auto ordered = [](float least, float low, float high, float most) {
    return least <= low && low <= high && high <= most;
  };
  require(r.min_area > 0 && ordered(0, r.min_area, r.max_area, 1),
          "crop areas must lie in (0, 1] in ascending order, got ", r.min_area, " to ", r.max_area);
  require(r.min_aspect > 0 && ordered(0, r.min_aspect, r.max_aspect, 1e6f),
          "crop aspects must be positive and in ascending order, got ", r.min_aspect, " to ",
          r.max_aspect);
  require(ordered(0, 0, r.flip_probability, 1), "the flip probability must lie in [0, 1], got ",
          r.flip_probability);
  require(ordered(0, 0, r.rotation_degrees, 180), "the rotation must lie in [0, 180] degrees, got ",
          r.rotation_degrees);
  require(ordered(0, 0, r.hue, 1), "the hue shift must lie in [0, 1], got ", r.hue);
  require(ordered(0, r.min_saturation, r.max_saturation, 1e6f),
          "saturation factors must be at least 0 and in ascending order, got ", r.min_saturation,
          " to ", r.max_saturation);
  require(ordered(0, 0, r.brightness, 255), "the brightness offset must lie in [0, 255], got ",
          r.brightness);
  require(ordered(0, 0, r.pca_stddev, 1e6f),
          "the deviation of the PCA noise must be at least 0, got ", r.pca_stddev);
}

AugmentDraw draw_augmentation(int width, int height, const AugmentRanges& r, Rng& rng) {
  AugmentDraw draw{};
  const double aspect = rng.uniform(r.min_aspect, r.max_aspect);
  const double area = rng.uniform(r.min_area, r.max_area);
  const double crop_width = std::sqrt(static_cast<double>(height) * width * area / aspect);
  const auto clip = [](double side, int most) {
    return static_cast<int>(std::clamp(side, 1.0, static_cast<double>(most)));
  };
  draw.crop.width = clip(crop_width, width);
  draw.crop.height = clip(crop_width * aspect, height);
  const auto position = [&](int room) {
    return static_cast<int>(rng.below(static_cast<uint64_t>(room) + 1));
  };
  draw.crop.x = position(width - draw.crop.width);
  draw.crop.y = position(height - draw.crop.height);
  draw.flip = rng.uniform() < r.flip_probability;
  const float most = r.rotation_degrees * std::numbers::pi_v<float> / 180;
  draw.angle = rng.uniform(-most, most);
  draw.hue = rng.uniform(-r.hue, r.hue);
  draw.saturation = rng.uniform(r.min_saturation, r.max_saturation);
  draw.brightness = rng.uniform(-r.brightness, r.brightness);
  for (float& alpha : draw.pca_alpha) alpha = r.pca_stddev * rng.normal();
  return draw;
}

void crop_resize(const Image& image, const Rect& crop, int out_width, int out_height,
                 FloatImage& out) {
  resize_window(image, crop, out_width, out_height, {0, 0, out_width, out_height}, out);
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
  // Eigenvectors (columns) and eigenvalues of the covariance of ImageNet's RGB values.
  constexpr float kVectors[3][3] = {
      {-0.5675f, 0.7192f, 0.4009f}, {-0.5808f, -0.0045f, -0.8140f}, {-0.5836f, -0.6948f, 0.4203f}};
  constexpr float kValues[3] = {55.46f, 4.794f, 1.148f};
  float offset[3] = {};
  for (int c = 0; c < kChannels; ++c) {
    for (size_t i = 0; i < 3; ++i) offset[c] += kVectors[c][i] * (alpha[i] * kValues[i]);
  }
  for_each_pixel(image, [&offset](float* p) {
    for (int c = 0; c < kChannels; ++c) p[c] += offset[c];
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
  Scratch& s = scratch;
  crop_resize(image, draw.crop, size, size, s.picture);
  if (draw.flip) flip_horizontal(s.picture);
  rotate(s.picture, draw.angle, s.rotated);
  shift_hue(s.rotated, draw.hue);
  scale_saturation(s.rotated, draw.saturation);
  shift_brightness(s.rotated, draw.brightness);
  add_pca_noise(s.rotated, draw.pca_alpha);
  normalise(s.rotated, normalisation, out);
}

int validation_resize(int size) {
  return static_cast<int>(int64_t{256} * size / 224);
}

void prepare_validation(const Image& image, int resize, int size,
                        const Normalisation& normalisation, float* out) {
  require(size >= 1 && resize >= size, "cannot crop ", size, " pixels of a side of ", resize);
  const double scale = static_cast<double>(resize) / std::min(image.width, image.height);
  const bool upright = image.width <= image.height;
  // In double the other side of a square may come out one pixel short, as in the recipe.
  const auto other = [&](int side) { return std::max(size, static_cast<int>(side * scale)); };
  const int width = upright ? resize : other(image.width);
  const int height = upright ? other(image.height) : resize;
  const Rect centre = {(width - size) / 2, (height - size) / 2, size, size};
  Scratch& s = scratch;
  resize_window(image, {0, 0, image.width, image.height}, width, height, centre, s.picture);
  normalise(s.picture, normalisation, out);
}

}  // namespace mbconv::io
