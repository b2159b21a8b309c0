#pragma once

#include <cstddef>

#include "ops/padding.h"

namespace mbconv::ops::ref {

// 3x3 convolution of stride 2 over dense x [N,H,W,3], w [3,3,3,Cout], y [N,OH,OW,Cout].
struct StemSizes {
  int n, h, w, cout;
};

// Calls body(x index, w index, y index) for each multiply-add.
template <class Body>
void for_each_stem_tap(const StemSizes& s, const Body& body) {
  const auto [oh, top] = same_padding(s.h, 3, 2);
  const auto [ow, left] = same_padding(s.w, 3, 2);
  for (int n = 0; n < s.n; ++n) {
    for (int i = 0; i < oh; ++i) {
      for (int j = 0; j < ow; ++j) {
        for (int tap = 0; tap < 27; ++tap) {
          const int h = 2 * i - top + tap / 9, w = 2 * j - left + tap / 3 % 3;
          if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
          for (int o = 0; o < s.cout; ++o) {
            body(((ptrdiff_t{n} * s.h + h) * s.w + w) * 3 + tap % 3, ptrdiff_t{tap} * s.cout + o,
                 ((ptrdiff_t{n} * oh + i) * ow + j) * s.cout + o);
          }
        }
      }
    }
  }
}

// y += x * w; y zeroed by the caller.
template <class T>
void stem_forward(const StemSizes& s, const T* x, const T* w, T* y) {
  for_each_stem_tap(s, [&](ptrdiff_t i, ptrdiff_t k, ptrdiff_t o) { y[o] += x[i] * w[k]; });
}

// dw += the gradient with respect to w.
template <class T>
void stem_backward_filter(const StemSizes& s, const T* x, const T* dy, T* dw) {
  for_each_stem_tap(s, [&](ptrdiff_t i, ptrdiff_t k, ptrdiff_t o) { dw[k] += x[i] * dy[o]; });
}

}  // namespace mbconv::ops::ref
