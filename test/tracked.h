#pragma once

#include <cmath>

#include "ops/activation.h"
#include "ops/activation_ref.h"

namespace mbconv::test {

// A number in double together with the sum of the absolute values of the terms it was made of.
// Running a reference on it gives, beside each value, the sum |x||w| to which the rounding errors
// of the same operations in float, in any order, are proportional.
struct Tracked {
  double value = 0, magnitude = 0;

  Tracked() = default;
  Tracked(double v) : value(v), magnitude(std::abs(v)) {}
  Tracked(double v, double m) : value(v), magnitude(m) {}

  Tracked& operator+=(Tracked b) { return *this = {value + b.value, magnitude + b.magnitude}; }
  friend Tracked operator+(Tracked a, Tracked b) { return a += b; }
  friend Tracked operator-(Tracked a) { return {-a.value, a.magnitude}; }
  friend Tracked operator-(Tracked a, Tracked b) { return a + -b; }
  friend Tracked operator*(Tracked a, Tracked b) {
    return {a.value * b.value, a.magnitude * b.magnitude};
  }
};

// f(x) of a number with an error: f's own rounding error and the slope times x's error.
inline Tracked propagate(double value, double slope, Tracked x) {
  return {value, std::abs(value) + std::abs(slope) * x.magnitude};
}

// The functions of ops/activation_ref.h, which the references find by argument-dependent look-up.
inline Tracked sigmoid(Tracked z) {
  const double s = ops::ref::sigmoid(z.value);
  return propagate(s, s * (1 - s), z);
}
inline Tracked activate(ops::Activation f, Tracked z) {
  return propagate(ops::ref::activate(f, z.value), ops::ref::activate_derivative(f, z.value), z);
}
inline Tracked activate_derivative(ops::Activation f, Tracked z) {
  const double slope = ops::ref::activate_derivative(f, z.value);
  const double s = ops::ref::sigmoid(z.value);
  // Both derivatives are differences, of terms of this size.
  switch (f) {
    case ops::Activation::swish: {
      const double second = s * (1 - s) * (2 + z.value * (1 - 2 * s));
      return {slope, s + std::abs(z.value) * s * (1 - s) + std::abs(second) * z.magnitude};
    }
    case ops::Activation::sigmoid:
      return {slope, s + s * s + std::abs(s * (1 - s) * (1 - 2 * s)) * z.magnitude};
    default:
      return {slope};
  }
}

}  // namespace mbconv::test
