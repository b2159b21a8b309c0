#include "io/augment_kernel.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "io/augment.h"
#include "io/augment_ref.h"
#include "lib/error.h"
#include "test/levels.h"

using namespace mbconv;
using namespace mbconv::io;

namespace {

enum class Content { noise, grey, saturated };

Image picture(int width, int height, Content content) {
  Rng rng(5, 0, static_cast<uint64_t>(width * height), Purpose::synthetic);
  Image image{width, height, std::vector<uint8_t>(size_t{3} * static_cast<size_t>(width * height))};
  for (size_t i = 0; i < image.pixels.size(); ++i) {
    const auto value = static_cast<uint8_t>(rng.next());
    switch (content) {
      case Content::noise:
        image.pixels[i] = value;
        break;
      case Content::grey:
        image.pixels[i] = i % 3 == 0 ? value : image.pixels[i - 1];
        break;
      case Content::saturated:
        image.pixels[i] = value < 128 ? 0 : 255;
        break;
    }
  }
  return image;
}

AugmentDraw draw_for(const Image& image, uint64_t sample, const AugmentRanges& ranges = {}) {
  Rng rng(11, 2, sample, Purpose::augment);
  return draw_augmentation(image.width, image.height, ranges, rng);
}

std::vector<float> augmented(const Image& image, const AugmentDraw& draw, int size, Isa isa) {
  std::vector<float> out(size_t{3} * static_cast<size_t>(size * size), std::nanf(""));
  augment(image, draw, size, {}, out.data(), isa);
  return out;
}

bool runs_here(const AugmentVariant& variant) {
  const test::Decision decision = test::decide(variant.isa, variant.name);
  REQUIRE(decision != test::Decision::fail);
  return decision == test::Decision::run;
}

// In pixel units. The order of operations differs from the steps', so the last bits may.
void check_close(const std::vector<float>& values, const std::vector<float>& expected) {
  constexpr float kUnit = 58.4f;
  float largest = 0;
  bool finite = true;
  for (size_t i = 0; i < values.size(); ++i) {
    finite = finite && std::isfinite(values[i]);
    largest = std::max(largest, kUnit * std::abs(values[i] - expected[i]));
  }
  CHECK(finite);
  CHECK(largest <= 1e-3f);
}

}  // namespace

TEST_CASE("augment variants: best first, the last for every CPU") {
  const auto variants = augment_variants();
  REQUIRE(!variants.empty());
  CHECK(variants.back().isa == Isa::generic);
  for (size_t i = 1; i < variants.size(); ++i) CHECK(variants[i].isa < variants[i - 1].isa);
}

TEST_CASE("augment: matches the steps one after the other, at every level, for any size") {
  for (const int size : {1, 3, 15, 16, 17, 33, 64, 224, 300}) {
    CAPTURE(size);
    if (test::small_run() && size > 64) break;
    for (const Content content : {Content::noise, Content::grey, Content::saturated}) {
      const Image image = picture(size == 224 ? 500 : 61, size == 224 ? 375 : 47, content);
      for (uint64_t sample = 0; sample < 6; ++sample) {
        const AugmentDraw draw = draw_for(image, sample);
        std::vector<float> expected(size_t{3} * static_cast<size_t>(size * size));
        ref::augment(image, draw, size, {}, expected.data());
        for (const AugmentVariant& variant : augment_variants()) {
          CAPTURE(std::string(variant.name));
          if (runs_here(variant)) {
            check_close(augmented(image, draw, size, variant.isa), expected);
          }
        }
      }
    }
  }
}

TEST_CASE("augment: matches the steps at the ends of the ranges and for pictures of one pixel") {
  AugmentRanges wide;
  wide.rotation_degrees = 180;
  wide.hue = 1;
  wide.min_saturation = 0;
  wide.max_saturation = 50;
  wide.brightness = 100;
  wide.pca_stddev = 1;
  const std::pair<int, int> sizes[] = {{1, 1}, {1, 40}, {40, 1}, {2, 3}, {90, 70}};
  for (const auto& size_of : sizes) {
    CAPTURE(size_of.first);
    const Image image = picture(size_of.first, size_of.second, Content::noise);
    for (uint64_t sample = 0; sample < 20; ++sample) {
      AugmentDraw draw = draw_for(image, sample, wide);
      if (sample == 0) draw.hue = 1;
      if (sample == 1) draw.hue = draw.angle = 0;
      if (sample == 2) draw.saturation = 0;
      std::vector<float> expected(size_t{3} * 37 * 37);
      ref::augment(image, draw, 37, {}, expected.data());
      for (const AugmentVariant& variant : augment_variants()) {
        if (runs_here(variant)) check_close(augmented(image, draw, 37, variant.isa), expected);
      }
    }
  }
}

TEST_CASE("augment: every level gives the same bits") {
  const Image image = picture(500, 375, Content::noise);
  for (const int size : {31, 224}) {
    if (test::small_run() && size > 64) break;
    for (uint64_t sample = 0; sample < 8; ++sample) {
      const AugmentDraw draw = draw_for(image, sample);
      const std::vector<float> expected = augmented(image, draw, size, Isa::generic);
      std::vector<float> validation(expected.size()), other(expected.size());
      prepare_validation(image, size + 9, size, {}, validation.data(), Isa::generic);
      for (const AugmentVariant& variant : augment_variants()) {
        CAPTURE(std::string(variant.name));
        if (!runs_here(variant)) continue;
        CHECK(augmented(image, draw, size, variant.isa) == expected);
        prepare_validation(image, size + 9, size, {}, other.data(), variant.isa);
        CHECK(other == validation);
      }
    }
  }
}

TEST_CASE("prepare_validation: matches the steps one after the other, at every level") {
  const std::pair<int, int> sizes[] = {{500, 375}, {375, 500}, {20, 20}, {1, 9}, {9, 1}};
  for (const auto& size_of : sizes) {
    CAPTURE(size_of.first);
    const Image image = picture(size_of.first, size_of.second, Content::noise);
    for (const int size : {1, 28, 65}) {
      std::vector<float> expected(size_t{3} * static_cast<size_t>(size * size));
      ref::prepare_validation(image, size + 7, size, {}, expected.data());
      for (const AugmentVariant& variant : augment_variants()) {
        CAPTURE(std::string(variant.name));
        if (!runs_here(variant)) continue;
        std::vector<float> out(expected.size(), std::nanf(""));
        prepare_validation(image, size + 7, size, {}, out.data(), variant.isa);
        check_close(out, expected);
      }
    }
  }
}

TEST_CASE("augment: writes only its output, and reads nothing outside of the crop") {
  constexpr size_t kGuard = 64;
  const Image image = picture(61, 47, Content::noise);
  for (const int size : {15, 16, 17, 50}) {
    const AugmentDraw draw = draw_for(image, 3);
    Image other = image;
    for (int i = 0; i < 61 * 47; ++i) {
      const int x = i % 61 - draw.crop.x, y = i / 61 - draw.crop.y;
      const bool inside = x >= 0 && x < draw.crop.width && y >= 0 && y < draw.crop.height;
      for (size_t c = 0; c < 3 && !inside; ++c)
        other.pixels[size_t{3} * static_cast<size_t>(i) + c] ^= 0xff;
    }
    const size_t count = size_t{3} * static_cast<size_t>(size * size);
    for (const AugmentVariant& variant : augment_variants()) {
      CAPTURE(std::string(variant.name));
      if (!runs_here(variant)) continue;
      std::vector<float> out(count + 2 * kGuard, 7.0f);
      augment(image, draw, size, {}, out.data() + kGuard, variant.isa);
      CHECK(std::all_of(out.begin(), out.begin() + kGuard, [](float v) { return v == 7; }));
      CHECK(std::all_of(out.end() - kGuard, out.end(), [](float v) { return v == 7; }));
      const std::vector<float> again = augmented(other, draw, size, variant.isa);
      CHECK(std::equal(again.begin(), again.end(), out.begin() + kGuard));
    }
  }
}

TEST_CASE("augment: threads and earlier pictures leave no trace in the result") {
  const Image large = picture(500, 375, Content::noise), small = picture(30, 20, Content::noise);
  const AugmentDraw draw = draw_for(small, 1);
  const std::vector<float> expected = augmented(small, draw, 32, host_isa());
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 10; ++i) {
        augmented(large, draw_for(large, i), 64 + static_cast<int>(t), host_isa());
        wrong[t] += augmented(small, draw, 32, host_isa()) != expected;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}

TEST_CASE("augment: a size that no network has is refused") {
  const Image image = picture(8, 8, Content::noise);
  std::vector<float> out(3);
  for (const int size : {0, -1, std::numeric_limits<int>::max()}) {
    CHECK_THROWS_AS(augment(image, draw_for(image, 0), size, {}, out.data()), Error);
  }
}
