#include "io/augment.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "io/augment_kernel.h"
#include "io/augment_ref.h"
#include "io/safetensors.h"
#include "lib/error.h"
#include "test/levels.h"

using namespace mbconv;
using namespace mbconv::io;

namespace {

// Cases made by test/data/make_augment_fixtures.py: STEP/k is TensorFlow's output,
// STEP/k/parameters what the step was called with.
const TensorFile& fixtures() {
  static const TensorFile file = read_safetensors("test/data/augment/augment.safetensors");
  return file;
}

const NamedTensor& fixture(const std::string& name) {
  const NamedTensor* tensor = fixtures().find(name);
  REQUIRE_MESSAGE(tensor != nullptr, name);
  return *tensor;
}

FloatImage float_image(const NamedTensor& t) {
  REQUIRE(t.shape.size() == 3);
  const float* values = t.values<float>();
  return {static_cast<int>(t.shape[1]), static_cast<int>(t.shape[0]), {values, values + t.count()}};
}

Image picture(float number) {
  const FloatImage f = float_image(fixture("picture/" + std::to_string(std::lround(number))));
  return {f.width, f.height, {f.pixels.begin(), f.pixels.end()}};
}

int integer(float parameter) {
  return static_cast<int>(std::lround(parameter));
}

struct Difference {
  double mean = 0, largest = 0;
};

// In units of 0..255 when values are times `unit`.
Difference difference(const std::vector<float>& values, const NamedTensor& expected, double unit) {
  REQUIRE(static_cast<int64_t>(values.size()) == expected.count());
  Difference d;
  for (size_t i = 0; i < values.size(); ++i) {
    const double error = unit * std::abs(values[i] - expected.values<float>()[i]);
    REQUIRE(std::isfinite(error));
    d.mean += error / static_cast<double>(values.size());
    d.largest = std::max(d.largest, error);
  }
  return d;
}

using Step =
    std::function<std::vector<float>(const float* parameters, const NamedTensor& expected)>;

// Runs all cases of a step; the required agreement is mean 0.02 and largest 0.5, what single
// precision gives is far better.
void check_step(const std::string& name, int cases, const Step& step, double unit = 1) {
  for (int k = 0; k < cases; ++k) {
    CAPTURE(k);
    const std::string key = name + "/" + std::to_string(k);
    const NamedTensor& expected = fixture(key);
    const Difference d =
        difference(step(fixture(key + "/parameters").values<float>(), expected), expected, unit);
    CHECK(d.mean <= 1e-4);
    CHECK(d.largest <= 1e-3);
  }
  CHECK(fixtures().find(name + "/" + std::to_string(cases)) == nullptr);
}

Step in_place(const std::function<void(FloatImage&, const float*)>& step) {
  return [=](const float* parameters, const NamedTensor&) {
    FloatImage image = float_image(fixture("float"));
    step(image, parameters);
    return image.pixels;
  };
}

Image noise(int width, int height) {
  Rng rng(5, 0, static_cast<uint64_t>(width * height), Purpose::synthetic);
  Image image{width, height, std::vector<uint8_t>(size_t{3} * static_cast<size_t>(width * height))};
  for (uint8_t& v : image.pixels) v = static_cast<uint8_t>(rng.next());
  return image;
}

// Calls body(isa) for each level that is to run here.
template <class Body>
void for_each_isa(const Body& body) {
  for (const AugmentVariant& variant : augment_variants()) {
    CAPTURE(std::string(variant.name));
    const test::Decision decision = test::decide(variant.isa, variant.name);
    REQUIRE(decision != test::Decision::fail);
    if (decision == test::Decision::run) body(variant.isa);
  }
}

constexpr double kUnit = 58.4;  // the largest deviation that normalised values were divided by

}  // namespace

TEST_CASE("crop_resize: agrees with tf.image.resize of the crop, up and down") {
  for_each_isa([](Isa isa) {
    check_step("crop_resize", 8, [isa](const float* p, const NamedTensor& expected) {
      const Rect crop = {integer(p[1]), integer(p[2]), integer(p[3]), integer(p[4])};
      const int width = static_cast<int>(expected.shape[1]);
      const int height = static_cast<int>(expected.shape[0]);
      FloatImage out, naive;
      crop_resize(picture(p[0]), crop, width, height, out, isa);
      ref::crop_resize(picture(p[0]), crop, width, height, naive);
      CHECK(out.pixels == naive.pixels);
      return out.pixels;
    });
  });
}

TEST_CASE("crop_resize: pixels outside the crop have no influence") {
  const Image image = noise(20, 16);
  Image other = image;
  const Rect crop = {6, 3, 9, 8};
  for (int y = 0; y < 16; ++y) {
    for (int x = 0; x < 20; ++x) {
      const bool inside = x >= 6 && x < 15 && y >= 3 && y < 11;
      if (!inside) other.pixels[static_cast<size_t>(3 * (20 * y + x))] ^= 0xff;
    }
  }
  FloatImage a, b;
  crop_resize(image, crop, 21, 5, a);
  crop_resize(other, crop, 21, 5, b);
  CHECK(a.pixels == b.pixels);
}

TEST_CASE("crop_resize: a crop outside the picture is refused") {
  FloatImage out;
  for (const Rect crop : {Rect{0, 0, 9, 8},
                          {-1, 0, 4, 4},
                          {5, 0, 4, 4},
                          {0, 5, 4, 4},
                          {0, 0, 0, 4},
                          {0, std::numeric_limits<int>::max(), 1, 1}}) {
    CHECK_THROWS_AS(crop_resize(noise(8, 8), crop, 4, 4, out), Error);
  }
  CHECK_THROWS_AS(crop_resize(noise(8, 8), {0, 0, 8, 8}, 0, 4, out), Error);
}

TEST_CASE("flip_horizontal: mirrors odd and even widths") {
  check_step("flip", 1,
             in_place([](FloatImage& image, const float*) { ref::flip_horizontal(image); }));
  FloatImage even{2, 2, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}};
  ref::flip_horizontal(even);
  CHECK(even.pixels == std::vector<float>{4, 5, 6, 1, 2, 3, 10, 11, 12, 7, 8, 9});
}

// A pixel whose source lies on the edge between two neighbours may fall to either side when
// arithmetic differs in the last bit: such pixels are counted, the others must be equal.
TEST_CASE("rotate: reads the pixels that ImageProjectiveTransformV3 reads") {
  for (int k = 0; k < 9; ++k) {
    CAPTURE(k);
    const std::string key = "rotate/" + std::to_string(k);
    const float* p = fixture(key + "/parameters").values<float>();
    const NamedTensor& expected = fixture(key);
    const FloatImage image = float_image(fixture("picture/" + std::to_string(integer(p[0]))));
    FloatImage out;
    ref::rotate(image, p[1], out);
    REQUIRE(static_cast<int64_t>(out.pixels.size()) == expected.count());
    int flipped_ties = 0;
    for (size_t i = 0; i < out.pixels.size(); i += 3) {
      flipped_ties += !std::equal(&out.pixels[i], &out.pixels[i] + 3, expected.values<float>() + i);
    }
    CHECK(flipped_ties == 0);
  }
  CHECK(fixtures().find("rotate/9") == nullptr);
}

TEST_CASE("rotate: no angle changes nothing, a quarter turn moves every pixel of a square") {
  FloatImage image, out;
  crop_resize(noise(9, 9), {0, 0, 9, 9}, 9, 9, image);
  ref::rotate(image, 0, out);
  CHECK(out.pixels == image.pixels);
  ref::rotate(image, std::numbers::pi_v<float> / 2, out);  // output (x, y) reads (8 - y, x)
  for (size_t y = 0; y < 9; ++y) {
    for (size_t x = 0; x < 9; ++x) {
      REQUIRE(out.pixels[3 * (9 * y + x)] == image.pixels[3 * (9 * x + 8 - y)]);
    }
  }
}

TEST_CASE("rotate: outside the picture is black") {
  FloatImage image{40, 40, std::vector<float>(size_t{3} * 1600, 200.0f)}, out;
  ref::rotate(image, 0.1f, out);
  CHECK(out.pixels[0] == 0);
  CHECK(out.pixels[size_t{3} * (40 * 20 + 20)] == 200);
  CHECK(std::ranges::count(out.pixels, 0.0f) > 3 * 40);
}

TEST_CASE("hue, saturation, brightness: agree with tf.image.adjust_*") {
  check_step("hue", 7,
             in_place([](FloatImage& image, const float* p) { ref::shift_hue(image, p[0]); }));
  check_step("saturation", 5, in_place([](FloatImage& image, const float* p) {
               ref::scale_saturation(image, p[0]);
             }));
  check_step("brightness", 3, in_place([](FloatImage& image, const float* p) {
               ref::shift_brightness(image, p[0]);
             }));
}

TEST_CASE("pca noise and normalisation: agree with TensorFlow") {
  check_step("pca", 2, in_place([](FloatImage& image, const float* p) {
               ref::add_pca_noise(image, {p[0], p[1], p[2]});
             }));
  const auto normalised = in_place([](FloatImage& image, const float*) {
    const FloatImage copy = image;
    ref::normalise(copy, {}, image.pixels.data());
  });
  check_step("normalise", 1, normalised, kUnit);
}

TEST_CASE("augment: all steps in the recipe's order agree with TensorFlow") {
  const auto step = [](const float* p, const NamedTensor& expected, Isa isa) {
    std::vector<float> out(static_cast<size_t>(expected.count()));
    const AugmentDraw draw = {.crop = {integer(p[1]), integer(p[2]), integer(p[3]), integer(p[4])},
                              .flip = p[5] != 0,
                              .angle = p[6],
                              .hue = p[7],
                              .saturation = p[8],
                              .brightness = p[9],
                              .pca_alpha = {p[10], p[11], p[12]}};
    augment(picture(p[0]), draw, static_cast<int>(expected.shape[0]), {}, out.data(), isa);
    return out;
  };
  for_each_isa([&](Isa isa) {
    check_step(
        "train", 3, [&](const float* p, const NamedTensor& e) { return step(p, e, isa); }, kUnit);
  });
}

TEST_CASE("prepare_validation: resize, central crop and normalisation agree with TensorFlow") {
  const auto step = [](const float* p, const NamedTensor& expected, Isa isa) {
    std::vector<float> out(static_cast<size_t>(expected.count()));
    const int size = static_cast<int>(expected.shape[0]);
    prepare_validation(picture(p[0]), integer(p[1]), size, {}, out.data(), isa);
    return out;
  };
  for_each_isa([&](Isa isa) {
    check_step(
        "validation", 5, [&](const float* p, const NamedTensor& e) { return step(p, e, isa); },
        kUnit);
  });
}

TEST_CASE("prepare_validation: a side that rounding left short still fills the crop") {
  // int(29 * (31 / 29)) is 30 in double, but the crop needs 31 rows.
  std::vector<float> out(size_t{3} * 31 * 31, std::nanf(""));
  prepare_validation(noise(29, 29), 31, 31, {}, out.data());
  CHECK(std::ranges::all_of(out, [](float v) { return std::abs(v) < 3; }));
}

TEST_CASE("prepare_validation: a resize below the crop is refused") {
  std::vector<float> out(300);
  CHECK_THROWS_AS(prepare_validation(noise(20, 20), 9, 10, {}, out.data()), Error);
}

TEST_CASE("validation_resize: int(256 gamma) for the resolutions of the family") {
  for (const auto& [size, resize] : {std::pair{224, 256},
                                     {240, 274},
                                     {260, 297},
                                     {300, 342},
                                     {380, 434},
                                     {456, 521},
                                     {528, 603},
                                     {600, 685},
                                     {672, 768},
                                     {800, 914},
                                     {32, 36},
                                     {1, 1}}) {
    CHECK(validation_resize(size) == resize);
  }
}
