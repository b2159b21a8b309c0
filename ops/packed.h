#pragma once

#include <algorithm>
#include <cstddef>

#include "lib/tensor.h"

namespace mbconv::ops {

// A K x N matrix in slabs of kLane columns, as matrix-product kernels read it: slab s holds columns
// [16 s, 16 s + 16) row by row, [K][16], a stream of whole lines of memory. N is rounded up to
// kLane with zero columns. Work is cut by panels of up to three slabs, 48 columns. Weights of
// convolutions live in this layout, 1x1 ones with K = Cin and N = Cout, and so do their gradients.
template <class T>
struct Packed {
  T* data = nullptr;
  int k = 0, n = 0;

  MBCONV_INLINE explicit operator bool() const { return data != nullptr; }
  MBCONV_INLINE operator Packed<const T>() const { return {data, k, n}; }
  MBCONV_INLINE constexpr int padded_n() const { return round_up(n, kLane); }
  MBCONV_INLINE constexpr int panels() const { return ceil_div(padded_n(), kWideBlock); }
  // Columns of panel p: 48, or 16 or 32 of the last one.
  MBCONV_INLINE constexpr int width(int p) const {
    const int left = padded_n() - p * kWideBlock;
    return left < kWideBlock ? left : kWideBlock;
  }
  // Columns of panel p without those that are padding, in halves of kLane.
  MBCONV_INLINE constexpr int used(int p) const {
    const int left = round_up(n, kLane / 2) - p * kWideBlock;
    return left < kWideBlock ? left : kWideBlock;
  }
  // How far a column is from that of the same place in the next slab.
  MBCONV_INLINE constexpr ptrdiff_t slab_stride() const { return ptrdiff_t{k} * kLane; }
  MBCONV_INLINE constexpr size_t size() const {
    return static_cast<size_t>(k) * static_cast<size_t>(padded_n());
  }
  // Where element (row, column) lies. The columns of its slab and the rows after it follow.
  MBCONV_INLINE constexpr ptrdiff_t place(int row, int column) const {
    return column / kLane * slab_stride() + ptrdiff_t{row} * kLane + column % kLane;
  }
  MBCONV_INLINE T& at(int row, int column) const { return data[place(row, column)]; }
  // Row `row` of panel p.
  MBCONV_INLINE T* panel(int p, int row = 0) const { return &at(row, p * kWideBlock); }
};

// out[k,n] = w[k,n] scale[n]; `scale` has padded_n() floats.
inline void scale_columns(Packed<const float> w, const float* scale, Packed<float> out) {
  const float* from = w.data;
  float* to = out.data;
  for (int n = 0; n < w.padded_n(); n += kLane) {
    for (int k = 0; k < w.k; ++k, from += kLane, to += kLane) {
      for (int c = 0; c < kLane; ++c) to[c] = from[c] * scale[n + c];
    }
  }
}

// Writes panel `panel` of the transpose of `w` (K x N) to that of `out` (N x K), padding columns
// included, past the caches. out.data is aligned to 16 bytes.
void transpose(Packed<const float> w, Packed<float> out, int panel);

}  // namespace mbconv::ops
