#include "test/compare.h"

#include <doctest/doctest.h>

#include <limits>

using namespace mbconv::test;

namespace {

Dense<float> got(std::vector<float> values) {
  Dense<float> out({static_cast<int>(values.size())});
  out.values = std::move(values);
  return out;
}

Dense<Tracked> want(std::vector<double> values, double magnitude) {
  Dense<Tracked> out({static_cast<int>(values.size())});
  for (size_t i = 0; i < values.size(); ++i) out[i] = {values[i], magnitude};
  return out;
}

constexpr double kC = 4;

}  // namespace

TEST_CASE("compare: accepts equal values and errors within the tolerance") {
  CHECK(compare(got({1, -2, 3}), want({1, -2, 3}, 3), kC).ok);
  CHECK(compare(got({1, -2, 3 + 2e-7f}), want({1, -2, 3}, 3), kC).ok);
}

TEST_CASE("compare: refuses errors just above the tolerance, above and below") {
  // 4 eps 3 = 1.43e-6
  CHECK_FALSE(compare(got({1.0000017f}), want({1}, 3), kC).ok);
  CHECK_FALSE(compare(got({0.9999983f}), want({1}, 3), kC).ok);
  CHECK(compare(got({1.0000012f}), want({1}, 3), kC).ok);
}

TEST_CASE("compare: the tolerance is that of the element, not of the largest one") {
  Dense<Tracked> expected({2});
  expected[0] = {1e6, 1e6};
  expected[1] = {1e-3, 1e-3};
  CHECK(compare(got({1e6f, 1e-3f}), expected, kC).ok);
  CHECK_FALSE(compare(got({1e6f, 1.00001e-3f}), expected, kC).ok);
}

TEST_CASE("compare: a difference of large terms is judged by the terms") {
  CHECK(compare(got({1e-6f}), want({2e-6}, 10), kC).ok);
}

TEST_CASE("compare: refuses NaN and infinity") {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  CHECK_FALSE(compare(got({1, kNan, 3}), want({1, 2, 3}, 3), kC).ok);
  CHECK_FALSE(compare(got({kNan, kNan, kNan}), want({1, 2, 3}, 3), kC).ok);
  CHECK_FALSE(compare(got({1, kInf, 3}), want({1, 2, 3}, 3), kC).ok);
  CHECK_FALSE(compare(got({1, 2}), want({1, kNan}, 3), kC).ok);
  CHECK_FALSE(compare(got({1, kNan}), want({1, kNan}, 3), kC).ok);
  CHECK_FALSE(compare(got({1, 2}), want({1, 2}, kNan), kC).ok);
  CHECK_FALSE(compare(got({1, kInf}), want({1, kInf}, kInf), kC).ok);
  CHECK_FALSE(compare(got({1, 2}), want({1, 5}, kInf), kC).ok);
}

TEST_CASE("compare: refuses a flipped sign") {
  CHECK_FALSE(compare(got({1, -2, 3}), want({1, 2, 3}, 3), kC).ok);
}

TEST_CASE("compare: refuses two different negatives") {
  CHECK_FALSE(compare(got({-1, -2, -3}), want({-1, -4, -3}, 4), kC).ok);
  CHECK_FALSE(compare(got({-1, -4, -3}), want({-1, -2, -3}, 4), kC).ok);
}

TEST_CASE("compare: refuses a wrong last element and names it") {
  const Comparison result = compare(got({1, 2, 3.1f}), want({1, 2, 3}, 3), kC);
  CHECK_FALSE(result.ok);
  CHECK(result.message.find("worst at [2] of [3]: got 3.0999999") != std::string::npos);
}

TEST_CASE("compare: refuses a wrong shape, and the same number of elements in another shape") {
  CHECK_FALSE(compare(got({1, 2}), want({1, 2, 3}, 3), kC).ok);
  CHECK_FALSE(compare(got({1, 2, 3}), want({1, 2}, 3), kC).ok);
  Dense<float> square({2, 2});
  square.values = {1, 2, 3, 4};
  CHECK_FALSE(compare(square, want({1, 2, 3, 4}, 4), kC).ok);
}

TEST_CASE("compare: refuses expectations that are mostly zero") {
  CHECK(compare(got({0, 0, 1, 2}), want({0, 0, 1, 2}, 2), kC).ok);
  CHECK_FALSE(compare(got({0, 0, 0, 2}), want({0, 0, 0, 2}, 2), kC).ok);
}

TEST_CASE("compare: a value expected to be zero of zero terms must be zero") {
  Dense<Tracked> expected = want({1, 2, 0}, 2);
  expected[2] = {0, 0};
  CHECK(compare(got({1, 2, 0}), expected, kC).ok);
  CHECK_FALSE(compare(got({1, 2, 1e-30f}), expected, kC).ok);
}

TEST_CASE("compare: with c = 0 only equality will do") {
  CHECK(compare(got({1, 2}), want({1, 2}, 2), 0).ok);
  CHECK_FALSE(compare(got({1, 2.0000002f}), want({1, 2}, 2), 0).ok);
}

TEST_CASE("tracked: magnitudes are the sums of absolute terms") {
  Tracked sum = 0;
  sum += Tracked(2) * Tracked(-3);
  sum += Tracked(6);
  CHECK(sum.value == 0);
  CHECK(sum.magnitude == 12);
  CHECK((Tracked(1) - Tracked(3)).magnitude == 4);
}
