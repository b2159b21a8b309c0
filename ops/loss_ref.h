#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace mbconv::ops::ref {

template <class T>
struct LossResult {
  T loss;
  std::vector<T> dz;  // not divided by the batch size
  int rank;
};

// Softmax cross-entropy of one image, as ops/loss.h states it.
template <class T>
LossResult<T> loss(const std::vector<T>& z, int label, T smoothing) {
  const T largest = *std::max_element(z.begin(), z.end());
  T sum = 0;
  for (const T v : z) sum += std::exp(v - largest);
  LossResult<T> out{largest + std::log(sum), {}, 0};
  for (size_t k = 0; k < z.size(); ++k) {
    const T target =
        (static_cast<int>(k) == label ? T(1) - smoothing : T(0)) + smoothing / T(z.size());
    out.loss -= target * z[k];
    out.dz.push_back(std::exp(z[k] - largest) / sum - target);
    const T of_label = z[static_cast<size_t>(label)];
    const int at = static_cast<int>(k);
    if (at < label && !(z[k] < of_label)) ++out.rank;
    if (at > label && !(z[k] <= of_label)) ++out.rank;
  }
  return out;
}

}  // namespace mbconv::ops::ref
