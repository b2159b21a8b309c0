#pragma once

// Activations on vectors, per ISA level. See ops/simd.h for how levels are compiled.

#include "ops/activation.h"
#include "ops/simd.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// e^-z for |z| <= 87, clamped beyond; relative error below 3e-7 + 1.3e-8 |z|, the second term from
// rounding log2(e).
#if defined(__AVX2__)
inline V exp_minus(V z) {
  // 2^t = 2^n 2^f with t = -z log2(e), n = round(t), |f| <= 1/2. Adding 1.5 * 2^23 rounds t to an
  // integer and leaves it in the low bits. 2^f: minimax polynomial of degree 5, relative error
  // 7.5e-8 before rounding.
  constexpr float kLog2e = 1.44269504f, kRound = 12582912.0f, kLimit = 87.0f;
  z = min(V(kLimit), max(V(-kLimit), z));
  const V biased = nmadd(z, V(kLog2e), V(kRound));
  const V f = nmadd(z, V(kLog2e), V(kRound) - biased);
  V p = madd(V(1.3276472e-3f), f, V(9.6755414e-3f));
  p = madd(p, f, V(5.5507133e-2f));
  p = madd(p, f, V(2.4022120e-1f));
  p = madd(p, f, V(6.9314697e-1f));
  p = madd(p, f, V(1.0000001f));
  return scale_by_power(p, biased);
}
#else
inline V exp_minus(V z) {
  constexpr float kLimit = 87.0f;
  return std::exp(-min(kLimit, max(-kLimit, z)));
}
#endif

// 1 / (1 + e^-z): absolute error below 2e-7. True division, so that levels round alike.
inline V sigmoid(V z) {
  return V(1.0f) / (V(1.0f) + exp_minus(z));
}

// The activations as policies: value f(z), and f(z) with f'(z). Of swish, the relative error of the
// value is that of exp_minus, the absolute error of the derivative below 3e-7.
struct Linear {
  static V value(V z) { return z; }
  static V value(V z, V& derivative) {
    derivative = V(1.0f);
    return z;
  }
};
struct Swish {
  static V value(V z) { return z / (V(1.0f) + exp_minus(z)); }
  static V value(V z, V& derivative) {
    const V e = exp_minus(z);
    const V s = V(1.0f) / (V(1.0f) + e);
    const V a = z * s;
    derivative = s * madd(a, e, V(1.0f));  // s (1 + z (1 - s)) with 1 - s = e s: no cancellation
    return a;
  }
};
struct Relu {
  static V value(V z) { return max(V(0.0f), z); }
  static V value(V z, V& derivative) {
    derivative = if_positive(z, V(1.0f), V(0.0f));
    return max(V(0.0f), z);
  }
};
struct Relu6 {
  static V value(V z) { return min(V(6.0f), max(V(0.0f), z)); }
  static V value(V z, V& derivative) {
    derivative = if_positive(z, if_positive(V(6.0f) - z, V(1.0f), V(0.0f)), V(0.0f));
    return value(z);
  }
};
struct LeakyRelu {
  static constexpr float kSlope = 0.1f;
  static V value(V z) { return if_positive(z, z, V(kSlope) * z); }
  static V value(V z, V& derivative) {
    derivative = if_positive(z, V(1.0f), V(kSlope));
    return z * derivative;
  }
};
struct Sigmoid {
  static V value(V z) { return sigmoid(z); }
  static V value(V z, V& derivative) {
    const V s = sigmoid(z);
    derivative = nmadd(s, s, s);
    return s;
  }
};

// Calls body(policy) with the policy of `activation`: one switch outside of the loops.
template <class Body>
inline void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::linear:
      return body(Linear());
    case Activation::swish:
      return body(Swish());
    case Activation::relu:
      return body(Relu());
    case Activation::relu6:
      return body(Relu6());
    case Activation::leaky_relu:
      return body(LeakyRelu());
    case Activation::sigmoid:
      return body(Sigmoid());
  }
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
