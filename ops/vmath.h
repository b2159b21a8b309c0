#pragma once

// Activations on vectors, per ISA level. See ops/simd.h for how levels are compiled.

#include "ops/activation.h"
#include "ops/simd.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

inline V clamp(V z, float limit) {
  return min(V(limit), max(V(-limit), z));
}
// The same with less work, but NaN may become a number.
inline V clamp_number(V z, float limit) {
#if defined(__AVX512F__)
  return lesser_magnitude(z, V(limit));
#else
  return clamp(z, limit);
#endif
}

// e^-z for |z| <= 87, to which the caller clamps z: power + step * slope, with AVX-512 times the
// whole powers of two. Relative error below 3e-7 + 1.3e-8 |z|, the second term from rounding
// log2(e); with AVX2, where e^-z < 2^-118 and denormals are flushed, so may be `step`: 5 % of
// values below 3e-36.
struct ExpMinus {
  V power, step, slope, n;

  explicit ExpMinus(V z) {
#if defined(__AVX2__)
    // 2^t = 2^n 2^f with t = -z log2(e) and n = t rounded to a multiple of 1 / kPowerSteps. Adding
    // 1.5 * 2^23 of these steps rounds t so and leaves n in the low bits. 2^f - 1 = f * slope:
    // minimax polynomials, error 2.5e-8 for steps of 1/8 and 5.3e-8 for 1/32. With AVX2 t, n and f
    // are counted in steps, so that `step` is no smaller than it must be.
    // The power is multiplied by f meanwhile: the chain of operations is what the loops wait for.
    constexpr float kStep = kPowerSteps == 8 ? 1.0f : 1.0f / kPowerSteps;
    constexpr float kLog2e = kStep * kPowerSteps * 1.44269504f, kRound = kStep * 12582912.0f;
    const V biased = nmadd(z, V(kLog2e), V(kRound));
    n = biased - V(kRound);
    const V f = nmsub(z, V(kLog2e), n);
    power = power_of_two(biased);
    step = power * f;
    if constexpr (kPowerSteps == 8) {
      slope = madd(madd(V(1.0839106e-4f), f, V(3.7540256e-3f)), f, V(8.6643405e-2f));
    } else {
      slope = madd(V(0.24022654f), f, V(0.6931573f));
    }
#else
    power = std::exp(-z);
    step = slope = n = 0.0f;
#endif
  }
  V value() const {
#if defined(__AVX512F__)
    return scale_by_power(madd(step, slope, power), n);
#else
    return madd(step, slope, power);
#endif
  }
  V plus_one() const {
#if defined(__AVX512F__)
    return V(1.0f) + value();
#else
    return madd(step, slope, V(1.0f) + power);
#endif
  }
};

constexpr float kExpLimit = 87.0f;

// e^-z, clamped beyond |z| = kExpLimit.
inline V exp_minus(V z) {
  return ExpMinus(clamp(z, kExpLimit)).value();
}

// 1 / (1 + e^-z): absolute error below 2e-7. True division, so that levels round alike.
inline V sigmoid(V z) {
  return V(1.0f) / ExpMinus(clamp(z, kExpLimit)).plus_one();
}

// The activations as policies: value f(z), slope f'(z), and both at once where that is less work.
// Of swish, the relative error of the value is that of exp_minus, the absolute error of the slope
// below 3e-7.
template <class F>
struct Separate {
  static V value(V z, V& slope) {
    slope = F::slope(z);
    return F::value(z);
  }
};
struct Linear : Separate<Linear> {
  using Separate::value;
  static V value(V z) { return z; }
  static V slope(V) { return V(1.0f); }
};
struct Swish {
  static V value(V z) { return z / ExpMinus(clamp_number(z, kExpLimit)).plus_one(); }
  // s (1 + z (1 - s)) with s = 1 / (1 + e), e = e^-z, as one quotient: (1 + e + z e) / (1 + e)^2.
  static V slope(V z) {
    z = clamp(z, 43.0f);  // e^2 stays finite
    const V e = ExpMinus(z).value(), d = V(1.0f) + e;
    return madd(z, e, d) / (d * d);
  }
  static V value(V z, V& slope) {
    const V e = ExpMinus(clamp_number(z, kExpLimit)).value();
    const V s = V(1.0f) / (V(1.0f) + e);
    const V a = z * s;
    slope = s * madd(a, e, V(1.0f));  // 1 - s = e s: no cancellation
    return a;
  }
};
struct Relu : Separate<Relu> {
  using Separate::value;
  static V value(V z) { return max(V(0.0f), z); }
  static V slope(V z) { return if_positive(z, V(1.0f), V(0.0f)); }
};
struct Relu6 : Separate<Relu6> {
  using Separate::value;
  static V value(V z) { return min(V(6.0f), max(V(0.0f), z)); }
  static V slope(V z) {
    return if_positive(z, if_positive(V(6.0f) - z, V(1.0f), V(0.0f)), V(0.0f));
  }
};
struct LeakyRelu : Separate<LeakyRelu> {
  static constexpr float kSlope = 0.1f;
  using Separate::value;
  static V value(V z) { return if_positive(z, z, V(kSlope) * z); }
  static V slope(V z) { return if_positive(z, V(1.0f), V(kSlope)); }
};
struct Sigmoid {
  static V value(V z) { return sigmoid(z); }
  static V slope(V z) {
    V slope;
    value(z, slope);
    return slope;
  }
  static V value(V z, V& slope) {
    const V s = sigmoid(z);
    slope = nmadd(s, s, s);
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
