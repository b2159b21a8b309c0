#pragma once

#include <cmath>
#include <vector>

namespace mbconv::ops::ref {

// Batch norm of one channel over its m values, as in Ioffe & Szegedy 2015, algorithm 1.
template <class T>
struct BatchNormChannel {
  T mean, var;  // population variance
};

template <class T>
BatchNormChannel<T> batch_norm_statistics(const std::vector<T>& y) {
  T mean = 0, var = 0;
  for (const T v : y) mean += v;
  mean /= T(y.size());
  for (const T v : y) var += (v - mean) * (v - mean);
  return {mean, var / T(y.size())};
}

// z = gamma * (y - mean) / sqrt(var + eps) + beta
template <class T>
std::vector<T> batch_norm_forward(const std::vector<T>& y, BatchNormChannel<T> s, T gamma, T beta,
                                  T eps) {
  std::vector<T> z;
  for (const T v : y) z.push_back(gamma * (v - s.mean) / std::sqrt(s.var + eps) + beta);
  return z;
}

// dy from dz, through the batch's mean and variance; adds to dgamma and dbeta.
template <class T>
std::vector<T> batch_norm_backward(const std::vector<T>& dz, const std::vector<T>& y,
                                   BatchNormChannel<T> s, T gamma, T eps, T& dgamma, T& dbeta) {
  const T m = T(y.size());
  const T invstd = T(1) / std::sqrt(s.var + eps);
  T sum = 0, sum_xhat = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    sum += dz[i];
    sum_xhat += dz[i] * (y[i] - s.mean) * invstd;
  }
  dbeta += sum;
  dgamma += sum_xhat;
  std::vector<T> dy;
  for (size_t i = 0; i < y.size(); ++i) {
    const T xhat = (y[i] - s.mean) * invstd;
    dy.push_back(gamma * invstd * (dz[i] - sum / m - xhat * sum_xhat / m));
  }
  return dy;
}

}  // namespace mbconv::ops::ref
