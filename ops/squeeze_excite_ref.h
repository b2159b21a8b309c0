#pragma once

#include <vector>

#include "ops/activation_ref.h"

namespace mbconv::ops::ref {

// Squeeze-excite of one image: pooled m [C], w1 and w2 [R,C], as ops/squeeze_excite.h states it.
template <class T>
struct SqueezeExciteResult {
  std::vector<T> u, gate;
};

template <class T>
SqueezeExciteResult<T> squeeze_excite_forward(Activation f, const std::vector<T>& m,
                                              const std::vector<T>& w1, const std::vector<T>& b1,
                                              const std::vector<T>& w2, const std::vector<T>& b2) {
  const size_t c = m.size(), r = b1.size();
  SqueezeExciteResult<T> out{b1, b2};
  for (size_t i = 0; i < r; ++i) {
    for (size_t j = 0; j < c; ++j) out.u[i] += w1[i * c + j] * m[j];
  }
  for (size_t j = 0; j < c; ++j) {
    for (size_t i = 0; i < r; ++i) out.gate[j] += activate(f, out.u[i]) * w2[i * c + j];
    out.gate[j] = sigmoid(out.gate[j]);
  }
  return out;
}

// From dgate: adds to the gradients of the weights, returns the gradient of m.
template <class T>
std::vector<T> squeeze_excite_backward(Activation f, const std::vector<T>& m,
                                       const std::vector<T>& w1, const std::vector<T>& w2,
                                       const SqueezeExciteResult<T>& forward,
                                       const std::vector<T>& dgate, std::vector<T>& dw1,
                                       std::vector<T>& db1, std::vector<T>& dw2,
                                       std::vector<T>& db2) {
  const size_t c = m.size(), r = db1.size();
  std::vector<T> dm(c), e(c);
  for (size_t j = 0; j < c; ++j) {
    e[j] = dgate[j] * forward.gate[j] * (T(1) - forward.gate[j]);
    db2[j] += e[j];
  }
  for (size_t i = 0; i < r; ++i) {
    T dh = 0;
    for (size_t j = 0; j < c; ++j) {
      dh += w2[i * c + j] * e[j];
      dw2[i * c + j] += activate(f, forward.u[i]) * e[j];
    }
    const T du = dh * activate_derivative(f, forward.u[i]);
    db1[i] += du;
    for (size_t j = 0; j < c; ++j) {
      dw1[i * c + j] += du * m[j];
      dm[j] += w1[i * c + j] * du;
    }
  }
  return dm;
}

}  // namespace mbconv::ops::ref
