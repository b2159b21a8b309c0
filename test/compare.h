#pragma once

#include <doctest/doctest.h>

#include <cfloat>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "test/tracked.h"

namespace mbconv::test {

// A dense tensor without padding, row-major.
template <class T>
struct Dense {
  std::vector<int> shape;
  std::vector<T> values;

  Dense() = default;
  explicit Dense(std::vector<int> s) : shape(std::move(s)) {
    size_t count = 1;
    for (const int d : shape) count *= static_cast<size_t>(d);
    values.resize(count);
  }
  Dense(std::vector<int> s, std::vector<T> v) : shape(std::move(s)), values(std::move(v)) {}
  T& operator[](size_t i) { return values[i]; }
  const T& operator[](size_t i) const { return values[i]; }
  size_t size() const { return values.size(); }
};

struct Comparison {
  bool ok = true;
  std::string message = {};
  double worst = 0;  // largest error / (eps * magnitude)
};

inline std::string describe(const std::vector<int>& shape) {
  std::ostringstream out;
  for (size_t i = 0; i < shape.size(); ++i) out << (i == 0 ? "[" : ",") << shape[i];
  out << "]";
  return out.str();
}

inline std::vector<int> coordinates(const std::vector<int>& shape, size_t index) {
  std::vector<int> at(shape.size());
  for (size_t d = shape.size(); d-- > 0;) {
    at[d] = static_cast<int>(index % static_cast<size_t>(shape[d]));
    index /= static_cast<size_t>(shape[d]);
  }
  return at;
}

// The one comparator: |got - want| <= c * eps * (sum of the absolute values of the terms) for each
// element, where want and the sums come from the reference in double. c = 0 asks for equality.
// Results below the smallest normal float may have been flushed to zero. Expectations of which more
// than half are zero are refused: agreement would prove little.
template <class T>
Comparison compare(const Dense<T>& got, const Dense<Tracked>& want, double c) {
  if (got.shape != want.shape || got.size() != want.size()) {
    return {false, "shape " + describe(got.shape) + ", expected " + describe(want.shape)};
  }
  size_t zeros = 0, wrong = 0, worst_index = 0;
  double worst = -1, worst_excess = -1;
  for (size_t i = 0; i < got.size(); ++i) {
    const Tracked& w = want[i];
    if (w.value == 0) ++zeros;
    const double error = std::abs(static_cast<double>(got[i]) - w.value);
    const double unit = FLT_EPSILON * w.magnitude;
    const double tolerance = c > 0 ? c * unit + FLT_MIN : 0;
    const bool ok = error <= tolerance && std::isfinite(tolerance);  // false for NaN
    if (!ok) ++wrong;
    const double ratio = std::isnan(error) ? INFINITY : error == 0 ? 0 : error / unit;
    if (ratio > worst && error > FLT_MIN) worst = ratio;
    const double excess = ok ? -1 : ratio;
    if (excess > worst_excess) {
      worst_excess = excess;
      worst_index = i;
    }
  }
  std::ostringstream out;
  if (wrong > 0) {
    out.precision(9);
    const Tracked& w = want[worst_index];
    out << wrong << " of " << got.size() << " wrong, worst at "
        << describe(coordinates(got.shape, worst_index)) << " of " << describe(got.shape)
        << ": got " << got[worst_index] << ", expected " << w.value << " +- " << c << " * eps * "
        << w.magnitude;
    return {false, out.str(), worst};
  }
  if (2 * zeros > want.size()) {
    out << zeros << " of " << want.size() << " expected values are zero";
    return {false, out.str(), worst};
  }
  return {true, {}, worst};
}

template <class T>
void check_close(const char* what, const Dense<T>& got, const Dense<Tracked>& want, double c) {
  const Comparison result = compare(got, want, c);
  CHECK_MESSAGE(result.ok, std::string(what), ": ", result.message);
}

}  // namespace mbconv::test
