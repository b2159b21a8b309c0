#pragma once

namespace mbconv::ops::ref {

// One parameter's step of ops/sgd.h.
template <class T>
void sgd(T& w, T& g, T& v, T lr, T momentum, T decay) {
  v = momentum * v - lr * (g + T(2) * decay * w);
  w += v;
  g = T(0);
}

}  // namespace mbconv::ops::ref
