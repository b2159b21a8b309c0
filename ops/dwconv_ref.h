#pragma once

#include <cstddef>

#include "ops/padding.h"

namespace mbconv::ops::ref {

// Sizes of a depthwise convolution over dense NHWC tensors: x [N,H,W,C], w [K,K,C], y [N,OH,OW,C].
struct DwconvSizes {
  int n, h, w, c, ksize, stride;
  constexpr SamePadding rows() const { return same_padding(h, ksize, stride); }
  constexpr SamePadding columns() const { return same_padding(w, ksize, stride); }
};

// Calls body(x index, w index, y index) for each multiply-add: y[y index] += x[x index] w[w index].
template <class Body>
void for_each_tap(const DwconvSizes& s, const Body& body) {
  const auto [oh, top] = s.rows();
  const auto [ow, left] = s.columns();
  for (int n = 0; n < s.n; ++n) {
    for (int i = 0; i < oh; ++i) {
      for (int j = 0; j < ow; ++j) {
        for (int r = 0; r < s.ksize; ++r) {
          for (int t = 0; t < s.ksize; ++t) {
            const int h = i * s.stride - top + r;
            const int w = j * s.stride - left + t;
            if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
            for (int c = 0; c < s.c; ++c) {
              body((ptrdiff_t{n} * s.h + h) * s.w * s.c + ptrdiff_t{w} * s.c + c,
                   (ptrdiff_t{r} * s.ksize + t) * s.c + c,
                   (ptrdiff_t{n} * oh + i) * ow * s.c + ptrdiff_t{j} * s.c + c);
            }
          }
        }
      }
    }
  }
}

// y += x * w; y zeroed by the caller.
template <class T>
void dwconv_forward(const DwconvSizes& s, const T* x, const T* w, T* y) {
  for_each_tap(s, [&](ptrdiff_t i, ptrdiff_t k, ptrdiff_t o) { y[o] += x[i] * w[k]; });
}

// dx += the gradient with respect to x; zeroed by the caller.
template <class T>
void dwconv_backward_input(const DwconvSizes& s, const T* dy, const T* w, T* dx) {
  for_each_tap(s, [&](ptrdiff_t i, ptrdiff_t k, ptrdiff_t o) { dx[i] += dy[o] * w[k]; });
}

// dw += the gradient with respect to w.
template <class T>
void dwconv_backward_filter(const DwconvSizes& s, const T* x, const T* dy, T* dw) {
  for_each_tap(s, [&](ptrdiff_t i, ptrdiff_t k, ptrdiff_t o) { dw[k] += x[i] * dy[o]; });
}

// One line of outputs from padded lines in scratch memory, the loop of the `generic` level:
//   y[q, c] = sum over lines r and taps t of x[r][(q * stride + t), c] w[r][t, c]
// where x[r] and w[r] point at [pixels, c] and [taps, c].
template <class T>
void dwconv_line(const T* const* x, const T* const* w, int lines, int taps, int stride, int q,
                 int c, int channels, T& y) {
  y = 0;
  for (int r = 0; r < lines; ++r) {
    for (int t = 0; t < taps; ++t) {
      y += x[r][ptrdiff_t{q * stride + t} * channels + c] * w[r][ptrdiff_t{t} * channels + c];
    }
  }
}

}  // namespace mbconv::ops::ref
