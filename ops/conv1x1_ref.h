#pragma once

#include <cstddef>

namespace mbconv::ops::ref {

// A 1x1 convolution over NHWC tensors is a matrix product: m = N*H*W pixels, k = Cin, n = Cout.
// Row-major, with the distance between rows given.

// y[m,n] = sum over k of x[m,k] w[k,n], added to y if `accumulate`.
template <class T>
void conv1x1_forward(int m, int k, int n, const T* x, ptrdiff_t ldx, const T* w, ptrdiff_t ldw,
                     T* y, ptrdiff_t ldy, bool accumulate = false) {
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      T sum = accumulate ? y[i * ldy + j] : T(0);
      for (int l = 0; l < k; ++l) sum += x[i * ldx + l] * w[l * ldw + j];
      y[i * ldy + j] = sum;
    }
  }
}

// dx[m,k] = sum over n of dy[m,n] w[k,n]
template <class T>
void conv1x1_backward_input(int m, int k, int n, const T* dy, ptrdiff_t lddy, const T* w,
                            ptrdiff_t ldw, T* dx, ptrdiff_t lddx) {
  for (int i = 0; i < m; ++i) {
    for (int l = 0; l < k; ++l) {
      T sum = 0;
      for (int j = 0; j < n; ++j) sum += dy[i * lddy + j] * w[l * ldw + j];
      dx[i * lddx + l] = sum;
    }
  }
}

// dw[k,n] += sum over m of x[m,k] dy[m,n]
template <class T>
void conv1x1_backward_filter(int m, int k, int n, const T* x, ptrdiff_t ldx, const T* dy,
                             ptrdiff_t lddy, T* dw, ptrdiff_t lddw) {
  for (int l = 0; l < k; ++l) {
    for (int j = 0; j < n; ++j) {
      T sum = 0;
      for (int i = 0; i < m; ++i) sum += x[i * ldx + l] * dy[i * lddy + j];
      dw[l * lddw + j] += sum;
    }
  }
}

}  // namespace mbconv::ops::ref
