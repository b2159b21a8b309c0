#include "io/augment.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "io/augment_kernel.h"
#include "lib/compiled_levels.h"
#include "lib/error.h"

namespace mbconv::io {

namespace generic {
extern const AugmentKernels kernels;
}
namespace avx2 {
extern const AugmentKernels kernels;
}
namespace avx512 {
extern const AugmentKernels kernels;
}

namespace {

constexpr int kChannels = 3;
constexpr int kLongestSide = 16384;  // places in a picture are counted in an int

constexpr auto kVariants = compiled<AugmentVariant>({
    {Isa::avx512, "avx512_c16", &avx512::kernels},
    {Isa::avx2, "avx2_c8", &avx2::kernels},
    {Isa::generic, "generic", &generic::kernels},
});

const AugmentKernels& kernels_of(Isa isa) {
  const auto fits = [isa](const AugmentVariant& variant) { return variant.isa <= isa; };
  return *std::find_if(std::begin(kVariants), std::end(kVariants), fits)->kernels;
}

size_t values_of(int width, int height) {
  return size_t{kChannels} * static_cast<size_t>(width) * static_cast<size_t>(height);
}

// What an output row or column reads: (1 - weight) * source[low] + weight * source[high].
struct Tap {
  int low, high;
  float weight;
};

// Memory of one thread, kept from picture to picture.
struct Scratch {
  std::vector<int> lows, highs, places;
  std::vector<float> weights, source, stretched[2], picture, row, means, scales;
};
thread_local Scratch thread_scratch;

// Grows, never shrinks, and writes only what is new.
template <class T>
T* room(std::vector<T>& memory, size_t count) {
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

// Tap of pixel `i` of an axis resized from `in` pixels to in / scale, in the float arithmetic of
// TensorFlow's op.
Tap make_tap(int i, float scale, int in) {
  const float centre = (static_cast<float>(i) + 0.5f) * scale - 0.5f;
  const float floor = std::floor(centre);
  return {std::clamp(static_cast<int>(floor), 0, in - 1),
          std::clamp(static_cast<int>(std::ceil(centre)), 0, in - 1), centre - floor};
}

// The part `window` of the picture that `crop` becomes when resized to full_width x full_height.
struct Resize {
  Rect crop;
  int full_width, full_height;
  Rect window;
  bool flip;  // the window's columns from the right
};

ColumnTaps column_taps(const Resize& r, Scratch& s) {
  const int count = r.window.width;
  const auto places = static_cast<size_t>(count);
  int* const lows = room(s.lows, places);
  int* const highs = room(s.highs, places);
  float* const weights = room(s.weights, places);
  const float scale = static_cast<float>(r.crop.width) / static_cast<float>(r.full_width);
  for (int i = 0; i < count; ++i) {
    const Tap tap = make_tap(r.window.x + i, scale, r.crop.width);
    const int to = r.flip ? count - 1 - i : i;
    lows[to] = kChannels * tap.low;
    highs[to] = kChannels * tap.high;
    weights[to] = tap.weight;
  }
  return {lows, highs, weights, count};
}

// Calls blend(y, low, high, weight) for each row of the window with the two source rows, stretched
// to the window's width, that it lies between. Only the crop's pixels are read, each row once.
template <class Blend>
void resize_rows(const Image& image, const Resize& r, const AugmentKernels& kernels, Scratch& s,
                 const Blend& blend) {
  const Rect& crop = r.crop;
  require(crop.x >= 0 && crop.y >= 0 && crop.width >= 1 && crop.height >= 1 &&
              crop.width <= image.width - crop.x && crop.height <= image.height - crop.y,
          "a crop of ", crop.width, " x ", crop.height, " at (", crop.x, ", ", crop.y,
          ") does not lie in a picture of ", image.width, " x ", image.height);
  require(r.window.width >= 1 && r.window.height >= 1, "cannot resize a picture to ", r.full_width,
          " x ", r.full_height);
  const ColumnTaps columns = column_taps(r, s);
  const size_t source_values = values_of(crop.width, 1);
  float* const source = room(s.source, source_values + 1);
  float* places[2];
  for (int i = 0; i < 2; ++i) places[i] = room(s.stretched[i], values_of(r.window.width, 1) + 1);

  // The two rows of a tap are neighbours or the same: they have different places or share one.
  int held[2] = {-1, -1};
  const auto stretched = [&](int row) {
    float* const place = places[row % 2];
    if (held[row % 2] != row) {
      const size_t begin = values_of(image.width, crop.y + row) + values_of(crop.x, 1);
      kernels.convert(image.pixels.data() + begin, static_cast<int>(source_values), source);
      kernels.stretch(source, columns, place);
      held[row % 2] = row;
    }
    return place;
  };
  const float scale = static_cast<float>(crop.height) / static_cast<float>(r.full_height);
  for (int y = 0; y < r.window.height; ++y) {
    const Tap tap = make_tap(r.window.y + y, scale, crop.height);
    const float* const low = stretched(tap.low);
    blend(y, low, stretched(tap.high), tap.weight);
  }
}

Rotation make_rotation(float angle, int size) {
  const double c = std::cos(double{angle}), s = std::sin(double{angle});
  const double last = size - 1;
  return {static_cast<float>(c), static_cast<float>(s),
          static_cast<float>((last - (c * last - s * last)) / 2),
          static_cast<float>((last - (s * last + c * last)) / 2), size};
}

Colour make_colour(const AugmentDraw& draw, const Normalisation& normalisation) {
  constexpr float kPlace[3] = {5, 3, 1};  // of R, G and B on the hue circle, which has length 6
  Colour colour{};
  const float shift = 6 * (draw.hue - std::floor(draw.hue));
  const std::array<float, 3> noise = pca_noise(draw.pca_alpha);
  for (size_t c = 0; c < 3; ++c) {
    const float turn = shift + kPlace[c];
    colour.turn[c] = (turn >= 6 ? turn - 6 : turn) - 5;
    colour.offset[c] = draw.brightness + noise[c] - normalisation.mean[c];
    colour.scale[c] = 1 / normalisation.stddev[c];
  }
  colour.saturation = std::max(draw.saturation, 0.0f);
  return colour;
}

}  // namespace

std::span<const AugmentVariant> augment_variants() {
  return kVariants;
}

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

std::array<float, 3> pca_noise(const std::array<float, 3>& alpha) {
  // Eigenvectors (columns) and eigenvalues of the covariance of ImageNet's RGB values.
  constexpr float kVectors[3][3] = {
      {-0.5675f, 0.7192f, 0.4009f}, {-0.5808f, -0.0045f, -0.8140f}, {-0.5836f, -0.6948f, 0.4203f}};
  constexpr float kValues[3] = {55.46f, 4.794f, 1.148f};
  std::array<float, 3> offset{};
  for (size_t c = 0; c < 3; ++c) {
    for (size_t i = 0; i < 3; ++i) offset[c] += kVectors[c][i] * (alpha[i] * kValues[i]);
  }
  return offset;
}

void crop_resize(const Image& image, const Rect& crop, int out_width, int out_height,
                 FloatImage& out, Isa isa) {
  const AugmentKernels& kernels = kernels_of(isa);
  out.width = out_width;
  out.height = out_height;
  const Resize resize = {crop, out_width, out_height, {0, 0, out_width, out_height}, false};
  if (out_width >= 1 && out_height >= 1) out.pixels.resize(values_of(out_width, out_height));
  const size_t row = values_of(out_width, 1);
  resize_rows(image, resize, kernels, thread_scratch,
              [&](int y, const float* low, const float* high, float weight) {
                kernels.blend(low, high, weight, static_cast<int>(row),
                              out.pixels.data() + row * static_cast<size_t>(y));
              });
}

void augment(const Image& image, const AugmentDraw& draw, int size,
             const Normalisation& normalisation, float* out, Isa isa) {
  require(1 <= size && size <= kLongestSide, "the network's pictures must have 1 to ", kLongestSide,
          " pixels a side, got ", size);
  constexpr size_t kZeros = 4;
  const AugmentKernels& kernels = kernels_of(isa);
  Scratch& s = thread_scratch;
  const size_t row = values_of(size, 1);
  float* const picture = room(s.picture, kZeros + values_of(size, size) + 1);
  const Resize resize = {draw.crop, size, size, {0, 0, size, size}, draw.flip};
  resize_rows(image, resize, kernels, s,
              [&](int y, const float* low, const float* high, float weight) {
                kernels.blend(low, high, weight, static_cast<int>(row),
                              picture + kZeros + row * static_cast<size_t>(y));
              });
  const Rotation rotation = make_rotation(draw.angle, size);
  const Colour colour = make_colour(draw, normalisation);
  int* const places = room(s.places, static_cast<size_t>(size + kPlacesMultiple));
  for (int y = 0; y < size; ++y) {
    kernels.rotate_colour(picture, rotation, colour, y, places, out + row * static_cast<size_t>(y));
  }
}

int validation_resize(int size) {
  return static_cast<int>(int64_t{256} * size / 224);
}

void prepare_validation(const Image& image, int resize, int size,
                        const Normalisation& normalisation, float* out, Isa isa) {
  require(size >= 1 && resize >= size, "cannot crop ", size, " pixels of a side of ", resize);
  const double scale = static_cast<double>(resize) / std::min(image.width, image.height);
  const bool upright = image.width <= image.height;
  // In double the other side of a square may come out one pixel short, as in the recipe.
  const auto other = [&](int side) { return std::max(size, static_cast<int>(side * scale)); };
  const int width = upright ? resize : other(image.width);
  const int height = upright ? other(image.height) : resize;
  const Rect centre = {(width - size) / 2, (height - size) / 2, size, size};

  const AugmentKernels& kernels = kernels_of(isa);
  Scratch& s = thread_scratch;
  const size_t row = values_of(size, 1);
  float* const blended = room(s.row, row);
  float* const means = room(s.means, row);
  float* const scales = room(s.scales, row);
  for (size_t i = 0; i < row; ++i) {
    means[i] = normalisation.mean[i % 3];
    scales[i] = 1 / normalisation.stddev[i % 3];
  }
  resize_rows(image, {{0, 0, image.width, image.height}, width, height, centre, false}, kernels, s,
              [&](int y, const float* low, const float* high, float weight) {
                const int count = static_cast<int>(row);
                kernels.blend(low, high, weight, count, blended);
                kernels.normalise(blended, means, scales, count,
                                  out + row * static_cast<size_t>(y));
              });
}

}  // namespace mbconv::io
