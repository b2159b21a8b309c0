#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <string>
#include <vector>

#include "io/augment.h"
#include "lib/error.h"

using namespace mbconv;
using namespace mbconv::io;

namespace {

// The largest distance between the distribution of `values` and the uniform one over [low, high]:
// above 1.95 / sqrt(n) with probability 0.001 (Kolmogorov and Smirnov).
double distance_from_uniform(std::vector<double> values, double low, double high) {
  std::ranges::sort(values);
  const double n = static_cast<double>(values.size());
  double distance = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double fraction = (values[i] - low) / (high - low);
    const double rank = static_cast<double>(i);
    distance = std::max({distance, fraction - rank / n, (rank + 1) / n - fraction});
  }
  return distance * std::sqrt(n);
}

std::vector<AugmentDraw> draws(int count, int width, int height, const AugmentRanges& ranges) {
  std::vector<AugmentDraw> all;
  for (int i = 0; i < count; ++i) {
    Rng rng(11, 0, static_cast<uint64_t>(i), Purpose::augment);
    all.push_back(draw_augmentation(width, height, ranges, rng));
  }
  return all;
}

double distance_from_uniform(const std::vector<AugmentDraw>& all, double low, double high,
                             const std::function<double(const AugmentDraw&)>& value) {
  std::vector<double> values;
  for (const AugmentDraw& draw : all) values.push_back(value(draw));
  return distance_from_uniform(values, low, high);
}

}  // namespace

TEST_CASE("draw: a function of ranges, picture size and generator alone") {
  for (uint64_t sample = 0; sample < 20; ++sample) {
    Rng one(7, 3, sample, Purpose::augment), two(7, 3, sample, Purpose::augment);
    const AugmentDraw a = draw_augmentation(500, 375, {}, one);
    const AugmentDraw b = draw_augmentation(500, 375, {}, two);
    CHECK(a.crop.x == b.crop.x);
    CHECK(a.crop.height == b.crop.height);
    CHECK(a.flip == b.flip);
    CHECK(a.angle == b.angle);
    CHECK(a.hue == b.hue);
    CHECK(a.saturation == b.saturation);
    CHECK(a.brightness == b.brightness);
    CHECK(a.pca_alpha == b.pca_alpha);
    CHECK(one.next() == two.next());  // and no more was drawn
  }
}

TEST_CASE("draw: the crop lies inside pictures of any shape and is never empty") {
  for (const auto& [width, height] :
       {std::pair{1, 1}, {1, 50}, {50, 1}, {2, 3}, {500, 375}, {10000, 1}, {10000, 10000}}) {
    for (uint64_t sample = 0; sample < 3000; ++sample) {
      Rng rng(1, 0, sample, Purpose::augment);
      const Rect c = draw_augmentation(width, height, {}, rng).crop;
      REQUIRE((c.x >= 0 && c.y >= 0 && c.width >= 1 && c.height >= 1));
      REQUIRE((c.x + c.width <= width && c.y + c.height <= height));
    }
  }
}

TEST_CASE("draw: area, aspect (height over width) and position are uniform") {
  // A picture so large that whole pixels do not matter, areas so small that nothing is clipped.
  constexpr int kSide = 100000;
  AugmentRanges ranges;
  ranges.max_area = 0.5f;
  const auto all = draws(20000, kSide, kSide, ranges);
  CHECK(distance_from_uniform(all, 0.08, 0.5, [](const AugmentDraw& d) {
          return double{1} * d.crop.width * d.crop.height / (double{1} * kSide * kSide);
        }) < 1.95);
  CHECK(distance_from_uniform(all, 0.75, 1 / 0.75, [](const AugmentDraw& d) {
          return double{1} * d.crop.height / d.crop.width;
        }) < 1.95);
  CHECK(distance_from_uniform(all, 0, 1, [](const AugmentDraw& d) {
          return double{1} * d.crop.x / (kSide - d.crop.width);
        }) < 1.95);
  CHECK(distance_from_uniform(all, 0, 1, [](const AugmentDraw& d) {
          return double{1} * d.crop.y / (kSide - d.crop.height);
        }) < 1.95);
}

TEST_CASE("draw: a crop larger than the picture is clipped to it") {
  AugmentRanges ranges;
  ranges.min_area = 1;
  for (const AugmentDraw& d : draws(1000, 300, 200, ranges)) {
    CHECK((d.crop.width == 300 || d.crop.height == 200));
  }
}

TEST_CASE("draw: both ends of the room for a crop are reached") {
  std::vector<int> counts(4);
  AugmentRanges ranges;
  ranges.min_area = ranges.max_area = 0.5f;  // 7 of 10 pixels a side
  ranges.min_aspect = ranges.max_aspect = 1;
  for (const AugmentDraw& d : draws(4000, 10, 10, ranges)) {
    REQUIRE(d.crop.width == 7);
    ++counts[static_cast<size_t>(d.crop.x)];
  }
  for (const int count : counts) CHECK(std::abs(count - 1000) < 100);
}

TEST_CASE("draw: angle, hue, saturation and brightness are uniform in their ranges") {
  const auto all = draws(20000, 500, 375, {});
  const double most = 7 * std::numbers::pi / 180;
  const auto check = [&all](double low, double high, auto member) {
    CHECK(distance_from_uniform(
              all, low, high, [member](const AugmentDraw& d) { return double{d.*member}; }) < 1.95);
  };
  check(-most, most, &AugmentDraw::angle);
  check(-0.3, 0.3, &AugmentDraw::hue);
  check(0.6, 1.4, &AugmentDraw::saturation);
  check(-0.3, 0.3, &AugmentDraw::brightness);
}

TEST_CASE("draw: flips and PCA noise have the stated probability and deviation") {
  constexpr int kCount = 20000;
  const auto all = draws(kCount, 500, 375, {});
  const auto flips = std::ranges::count_if(all, &AugmentDraw::flip);
  CHECK(std::abs(flips - kCount / 2) < 3.5 * std::sqrt(kCount / 4.0));
  for (size_t i = 0; i < 3; ++i) {
    double sum = 0, squares = 0;
    for (const AugmentDraw& d : all) {
      sum += double{d.pca_alpha[i]};
      squares += double{d.pca_alpha[i]} * d.pca_alpha[i];
    }
    CHECK(std::abs(sum / kCount) < 3.5 * 0.1 / std::sqrt(kCount));
    CHECK(std::sqrt(squares / kCount) == doctest::Approx(0.1).epsilon(0.02));
  }
}

TEST_CASE("check_ranges: the recipe passes, each senseless range is named") {
  check_ranges({});
  const auto bad = [](auto change, const std::string& word) {
    AugmentRanges ranges;
    change(ranges);
    CHECK_THROWS_WITH_AS(check_ranges(ranges), doctest::Contains(word.c_str()), Error);
  };
  bad([](AugmentRanges& r) { r.min_area = 0; }, "areas");
  bad([](AugmentRanges& r) { r.max_area = 1.1f; }, "areas");
  bad([](AugmentRanges& r) { r.max_aspect = 0.5f; }, "aspects");
  bad([](AugmentRanges& r) { r.flip_probability = 2; }, "flip");
  bad([](AugmentRanges& r) { r.rotation_degrees = -1; }, "rotation");
  bad([](AugmentRanges& r) { r.hue = std::nanf(""); }, "hue");
  bad([](AugmentRanges& r) { r.min_saturation = 2; }, "saturation");
  bad([](AugmentRanges& r) { r.brightness = -1; }, "brightness");
  bad([](AugmentRanges& r) { r.pca_stddev = -1; }, "PCA");
}
