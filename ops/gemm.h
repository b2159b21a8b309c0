#pragma once

// Matrix-product micro-kernels on tiles in scratch memory, per ISA level (see ops/simd.h): the
// vector levels here, `generic` through the loops of the reference.

#include <cstddef>

#include "ops/packed.h"
#include "ops/simd.h"
#if !defined(__AVX2__)
#include "ops/conv1x1_ref.h"
#endif

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// The left operand of a product, or a tile to continue from: m rows of scratch memory.
struct Tile {
  const float* data;
  ptrdiff_t ld;
};

// Output policy: keeps the product in a tile. An output policy has
//   store<MR, NV>(row, column, acc): receives acc[MR][NV], whose first element is (row, column).
struct StoreTile {
  float* data;
  ptrdiff_t ld;

  template <int MR, int NV>
  void store(int row, int column, const V (&acc)[MR][NV]) const {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < NV; ++v) {
        ops::MBCONV_LEVEL::store(data + (row + r) * ld + column + v * kWidth, acc[r][v]);
      }
    }
  }
};

#if defined(__AVX2__)

constexpr int kNV = kNR / kWidth;

// acc[MR][NV] = init + A[MR x k] B[k x NV * kWidth], k in ascending order for every element, so
// that an element's bits do not depend on the tile it falls in. Per k: NV loads, MR broadcasts from
// memory, MR * NV FMAs; bound by the FMA ports.
template <int MR, int NV, class Out>
inline void gemm_micro(int k, const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb,
                       const float* init, ptrdiff_t ldinit, int row, int column, const Out& out) {
  V acc[MR][NV];
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      acc[r][v] = init != nullptr ? load(init + r * ldinit + v * kWidth) : V(0.0f);
    }
  }
  for (int l = 0; l < k; ++l) {
    V bl[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) bl[v] = load(b + l * ldb + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const V ar(a[r * lda + l]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[r][v] = madd(ar, bl[v], acc[r][v]);
    }
  }
  out.template store<MR, NV>(row, column, acc);
}

template <int MR, int NV, class Out>
inline void gemm_remainder(int rows, int k, const float* a, ptrdiff_t lda, const float* b,
                           ptrdiff_t ldb, const float* init, ptrdiff_t ldinit, int row, int column,
                           const Out& out) {
  if constexpr (MR > 0) {
    if (rows == MR) {
      gemm_micro<MR, NV>(k, a, lda, b, ldb, init, ldinit, row, column, out);
    } else {
      gemm_remainder<MR - 1, NV>(rows, k, a, lda, b, ldb, init, ldinit, row, column, out);
    }
  }
}

// Columns [column, column + NV * kWidth) of all m rows.
template <int NV, class Out>
inline void gemm_columns(int m, int k, Tile a, const float* b, ptrdiff_t ldb, Tile init, int column,
                         const Out& out) {
  const auto start = [&](int row) {
    return init.data != nullptr ? init.data + row * init.ld + column : nullptr;
  };
  int row = 0;
  for (; row + kMR <= m; row += kMR) {
    gemm_micro<kMR, NV>(k, a.data + row * a.ld, a.ld, b, ldb, start(row), init.ld, row, column,
                        out);
  }
  gemm_remainder<kMR - 1, NV>(m - row, k, a.data + row * a.ld, a.ld, b, ldb, start(row), init.ld,
                              row, column, out);
}

// out = init + A[m x k] B, where B is rows [k0, k0 + k) of columns [48 panel, ...) of `w`. `init`
// may have no data (zero); it must not be what `out` writes unless element by element.
template <class Out>
inline void gemm_panel(int m, int k, Tile a, Packed<const float> w, int k0, int panel, Tile init,
                       const Out& out) {
  const int width = w.width(panel);
  const float* b = w.panel(panel) + ptrdiff_t{k0} * width;
  const int column = panel * kWideBlock;
  int c = 0;
  for (; c + kNR <= width; c += kNR)
    gemm_columns<kNV>(m, k, a, b + c, width, init, column + c, out);
  if constexpr (kNV > 2) {
    if (width - c == 2 * kWidth) gemm_columns<2>(m, k, a, b + c, width, init, column + c, out);
    if (width - c == kWidth) gemm_columns<1>(m, k, a, b + c, width, init, column + c, out);
  }
}

// dW[KR x NV * kWidth] = A^T B over m rows, with kAdd added to what is there: A's columns are dW's
// rows, no transpose needed. The register tile and its bound are gemm_micro's.
template <int KR, int NV, bool kAdd>
inline void gemm_tn_micro(int m, const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb,
                          float* dw, ptrdiff_t lddw) {
  V acc[KR][NV];
#pragma GCC unroll 16
  for (int r = 0; r < KR; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) acc[r][v] = V(0.0f);
  }
  for (int i = 0; i < m; ++i) {
    V bi[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) bi[v] = load(b + i * ldb + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < KR; ++r) {
      const V ar(a[i * lda + r]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[r][v] = madd(ar, bi[v], acc[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < KR; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      float* p = dw + r * lddw + v * kWidth;
      store(p, kAdd ? load(p) + acc[r][v] : acc[r][v]);
    }
  }
}

template <int KR, int NV, bool kAdd>
inline void gemm_tn_remainder(int rows, int m, const float* a, ptrdiff_t lda, const float* b,
                              ptrdiff_t ldb, float* dw, ptrdiff_t lddw) {
  if constexpr (KR > 0) {
    if (rows == KR) {
      gemm_tn_micro<KR, NV, kAdd>(m, a, lda, b, ldb, dw, lddw);
    } else {
      gemm_tn_remainder<KR - 1, NV, kAdd>(rows, m, a, lda, b, ldb, dw, lddw);
    }
  }
}

template <int NV, bool kAdd>
inline void gemm_tn_columns(int m, int k, Tile a, const float* b, ptrdiff_t ldb, float* dw,
                            ptrdiff_t lddw) {
  int r = 0;
  for (; r + kMR <= k; r += kMR)
    gemm_tn_micro<kMR, NV, kAdd>(m, a.data + r, a.ld, b, ldb, dw + r * lddw, lddw);
  gemm_tn_remainder<kMR - 1, NV, kAdd>(k - r, m, a.data + r, a.ld, b, ldb, dw + r * lddw, lddw);
}

template <bool kAdd>
inline void gemm_tn_all(int m, int k, int width, Tile a, Tile b, float* dw, ptrdiff_t lddw) {
  int c = 0;
  for (; c + kNR <= width; c += kNR)
    gemm_tn_columns<kNV, kAdd>(m, k, a, b.data + c, b.ld, dw + c, lddw);
  if constexpr (kNV > 2) {
    if (width - c == 2 * kWidth) gemm_tn_columns<2, kAdd>(m, k, a, b.data + c, b.ld, dw + c, lddw);
    if (width - c == kWidth) gemm_tn_columns<1, kAdd>(m, k, a, b.data + c, b.ld, dw + c, lddw);
  }
}

// dW[k x width] = A[m x k]^T B[m x width], with `add` added to what is there; width is a multiple
// of kLane.
inline void gemm_tn(int m, int k, int width, Tile a, Tile b, float* dw, ptrdiff_t lddw, bool add) {
  with_flag(add,
            [&](auto flag) { gemm_tn_all<decltype(flag)::value>(m, k, width, a, b, dw, lddw); });
}

#else

template <class Out>
inline void gemm_panel(int m, int k, Tile a, Packed<const float> w, int k0, int panel, Tile init,
                       const Out& out) {
  const int width = w.width(panel);
  const int column = panel * kWideBlock;
  for (int row = 0; row < m; ++row) {
    float y[kWideBlock];
    for (int c = 0; c < width; ++c) {
      y[c] = init.data != nullptr ? init.data[row * init.ld + column + c] : 0.0f;
    }
    ref::conv1x1_forward(1, k, width, a.data + row * a.ld, a.ld,
                         w.panel(panel) + ptrdiff_t{k0} * width, width, y, width, true);
    for (int c = 0; c < width; ++c) {
      const V acc[1][1] = {{y[c]}};
      out.template store<1, 1>(row, column + c, acc);
    }
  }
}

inline void gemm_tn(int m, int k, int width, Tile a, Tile b, float* dw, ptrdiff_t lddw, bool add) {
  for (int r = 0; r < k && !add; ++r) {
    for (int c = 0; c < width; ++c) dw[r * lddw + c] = 0.0f;
  }
  ref::conv1x1_backward_filter(m, k, width, a.data, a.ld, b.data, b.ld, dw, lddw);
}

#endif

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
