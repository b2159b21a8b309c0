#pragma once

#include <cmath>

#include "ops/activation.h"

namespace mbconv::ops::ref {

inline constexpr double kLeakySlope = 0.1;

template <class T>
T sigmoid(T z) {
  return T(1) / (T(1) + std::exp(-z));
}

// f(z)
template <class T>
T activate(Activation f, T z) {
  switch (f) {
    case Activation::linear:
      return z;
    case Activation::swish:
      return z * sigmoid(z);
    case Activation::relu:
      return z > T(0) ? z : T(0);
    case Activation::relu6:
      return z > T(0) ? (z < T(6) ? z : T(6)) : T(0);
    case Activation::leaky_relu:
      return z > T(0) ? z : T(kLeakySlope) * z;
    case Activation::sigmoid:
      return sigmoid(z);
  }
  return z;
}

// f'(z); at a kink the derivative from the left.
template <class T>
T activate_derivative(Activation f, T z) {
  switch (f) {
    case Activation::linear:
      return T(1);
    case Activation::swish: {
      const T s = sigmoid(z);
      return s * (T(1) + z * (T(1) - s));
    }
    case Activation::relu:
      return z > T(0) ? T(1) : T(0);
    case Activation::relu6:
      return z > T(0) && z < T(6) ? T(1) : T(0);
    case Activation::leaky_relu:
      return z > T(0) ? T(1) : T(kLeakySlope);
    case Activation::sigmoid: {
      const T s = sigmoid(z);
      return s * (T(1) - s);
    }
  }
  return T(1);
}

}  // namespace mbconv::ops::ref
