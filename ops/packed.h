#pragma once

#include <algorithm>
#include <cstddef>

#include "lib/tensor.h"

namespace mbconv::ops {

// A K x N matrix in column panels, as matrix-product kernels read it: panel p holds columns
// [48 p, 48 p + width(p)) row by row, [K][width]. N is rounded up to kLane with zero columns, so
// the last panel is 16, 32 or 48 wide. Weights of 1x1 convolutions live in this layout, K = Cin, N
// = Cout, and so do their gradients.
template <class T>
struct Packed {
  T* data = nullptr;
  int k = 0, n = 0;

  MBCONV_INLINE explicit operator bool() const { return data != nullptr; }
  MBCONV_INLINE operator Packed<const T>() const { return {data, k, n}; }
  MBCONV_INLINE constexpr int padded_n() const { return round_up(n, kLane); }
  MBCONV_INLINE constexpr int panels() const { return ceil_div(padded_n(), kWideBlock); }
  MBCONV_INLINE constexpr int width(int p) const {
    const int left = padded_n() - p * kWideBlock;
    return left < kWideBlock ? left : kWideBlock;
  }
  // Columns of panel p without those that are padding, in halves of kLane.
  MBCONV_INLINE constexpr int used(int p) const {
    const int left = round_up(n, kLane / 2) - p * kWideBlock;
    return left < kWideBlock ? left : kWideBlock;
  }
  MBCONV_INLINE T* panel(int p) const { return data + ptrdiff_t{p} * kWideBlock * k; }
  MBCONV_INLINE constexpr size_t size() const {
    return static_cast<size_t>(k) * static_cast<size_t>(padded_n());
  }
  // Element (row, column).
  MBCONV_INLINE T& at(int row, int column) const {
    const int p = column / kWideBlock;
    return panel(p)[ptrdiff_t{row} * width(p) + column % kWideBlock];
  }
};

// out[k,n] = w[k,n] scale[n]; `scale` has padded_n() floats.
inline void scale_columns(Packed<const float> w, const float* scale, Packed<float> out) {
  for (int p = 0; p < w.panels(); ++p) {
    const int width = w.width(p);
    const float *from = w.panel(p), *s = scale + p * kWideBlock;
    float* to = out.panel(p);
    for (int k = 0; k < w.k; ++k, from += width, to += width) {
      for (int c = 0; c < width; ++c) to[c] = from[c] * s[c];
    }
  }
}

// Writes panel `panel` of the transpose of `w` (K x N) to that of `out` (N x K), padding columns
// included, past the caches. out.data is aligned to 16 bytes.
void transpose(Packed<const float> w, Packed<float> out, int panel);

}  // namespace mbconv::ops
