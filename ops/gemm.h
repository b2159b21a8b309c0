#pragma once

// Matrix-product micro-kernels on tiles in scratch memory, per ISA level (see ops/simd.h): the
// vector levels here, `generic` through the loops of the reference.

#include <cassert>
#include <cstddef>

#include "ops/ahead.h"
#include "ops/packed.h"
#include "ops/simd.h"
#if !defined(__AVX2__)
#include "ops/conv1x1_ref.h"
#endif

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// Operands of products: rows `ld` floats apart, of the left one, of a tile to continue from, or of
// the right one, whose columns kLane apart lie `slab` floats apart. What the compiler knows of
// these saves instructions of every step of k.
struct Tile {
  const float* data;
  ptrdiff_t ld;
  static constexpr ptrdiff_t slab = kLane;

  // From column `column` on, a multiple of kLane.
  Tile from(int column) const { return {data + column, ld}; }
};
// A tile of the width of a panel.
struct WideTile {
  const float* data;
  static constexpr ptrdiff_t ld = kWideBlock, slab = kLane;

  WideTile from(int column) const { return {data + column}; }
};
// A panel of weights, from one of its rows and columns on.
struct WeightPanel {
  const float* data;
  ptrdiff_t slab;
  static constexpr ptrdiff_t ld = kLane;

  WeightPanel(Packed<const float> w, int panel, int k0)
      : WeightPanel(w.panel(panel, k0), w.slab_stride()) {}
  WeightPanel from(int column) const { return {data + column / kLane * slab, slab}; }

 private:
  WeightPanel(const float* place, ptrdiff_t stride) : data(place), slab(stride) {}
};

// A filter gradient: kLane columns at a time, `slab` floats apart, rows `ld` apart.
struct Slabs {
  float* data;
  ptrdiff_t ld, slab;

  // Where columns from `column` on, a multiple of kLane, lie.
  float* at(int row, int column) const { return data + row * ld + column / kLane * slab; }
};

// Panel `panel` of a filter gradient, from row k0 on.
inline Slabs panel_slabs(Packed<float> dw, int panel, int k0 = 0) {
  return {dw.panel(panel, k0), kLane, dw.slab_stride()};
}

// Stores a register tile to rows `ld` apart. `line` and `ld` come by value: for all that the
// compiler knows, a store of a vector changes any member of a policy.
template <bool kStream, int MR, int NV>
inline void store_accumulators(const V (&acc)[MR][NV], float* line, ptrdiff_t ld) {
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r, line += ld) {
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) put<kStream>(line + v * kWidth, acc[r][v]);
  }
}

// Output policy: keeps the product in a tile. An output policy has
//   store<MR, NV>(row, column, acc): receives acc[MR][NV], whose first element is (row, column);
//   within(): where there is one, is called before every kAskSteps steps of k, or fewer; kAskSteps
//     is the policy's, at least the depth of a tile where it is called once;
// and that of a filter gradient
//   expect<MR, kColumns>(row, column): is called before the product of that part.
struct StoreTile {
  float* data;
  ptrdiff_t ld;

  template <int MR, int NV>
  void store(int row, int column, const V (&acc)[MR][NV]) const {
    store_accumulators<false>(acc, data + row * ld + column, ld);
  }
};

// Output policy of a filter gradient, with kAdd added to what is there. Before each register tile
// memory is asked for its place, and within it for its share of `ahead`: with AVX-512 in small
// portions, as a core waits for a few dozen lines at most, and many more stop its loads. (Granite
// Rapids, B0 at 224: expand backward passes over maps of 112 to 28 pixels take 0.90 of their time,
// the stem's 0.86. With AVX2 the longer loop takes as much as that gives.)
template <bool kAdd>
struct StoreFilter {
  static constexpr int kAskSteps = kWidth == 16 ? 24 : kMaxTileRows;
  Slabs to;
  Ahead& ahead;

  void within() const { ahead.ask(); }
  template <int MR, int kColumns>
  void expect(int row, int column) const {
    const float* lines = to.at(row, column);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; c += kLane, lines += to.slab) {
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) prefetch(lines + r * to.ld);
    }
  }

  template <int MR, int NV>
  void store(int row, int column, const V (&acc)[MR][NV]) const {
    const ptrdiff_t ld = to.ld, slab = to.slab;
    float* line = to.at(row, column);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r, line += ld) {
#pragma GCC unroll 16
      for (int v = 0; v < NV; ++v) {
        float* p = line + v / kLaneVectors * slab + v % kLaneVectors * kWidth;
        ops::MBCONV_LEVEL::store(p, kAdd ? load(p) + acc[r][v] : acc[r][v]);
      }
    }
  }
};

#if defined(__AVX2__)

// Columns that a kernel keeps in registers: kPadded of the output, of which kUsed, a multiple of
// half a line, are computed; the others are padding, zero.
template <int kColumns, int kUsedColumns>
struct Columns {
  static constexpr int kPadded = kColumns, kUsed = kUsedColumns;
  static constexpr int kVectors = kPadded / kWidth;
  static constexpr int kFull = kUsed / kWidth;
  static constexpr bool kHalf = kUsed % kWidth != 0;

  // Rows of the register tile: 9 x 48, 8 x 32 and 8 x 16 with AVX-512; 6 x 16, and as many
  // accumulators, 4 x 24 where half of 16 columns would be padding, 2 x 48 in products of at most
  // two rows (12 + 2 + 1 of 16 registers).
  static constexpr int kRows = kWidth == 16 ? (kVectors == 3 ? kMR : 8)
                               : kFull > 2  ? 12 / kFull
                                            : kMR;
};

// Calls body(c, Columns) for groups of the columns of a panel of which `used` are not padding.
template <class Body>
inline void for_each_columns(int used, const Body& body) {
#if defined(__AVX512F__)
  switch (used) {
    case 48:
      return body(0, Columns<48, 48>());
    case 40:
      return body(0, Columns<48, 40>());
    case 32:
      return body(0, Columns<32, 32>());
    case 24:
      return body(0, Columns<32, 24>());
    case 16:
      return body(0, Columns<16, 16>());
    default:
      return body(0, Columns<16, 8>());
  }
#else
  int c = 0;
  for (; used - c >= 16 && used - c != 24; c += 16) body(c, Columns<16, 16>());
  if (used - c == 24) body(c, Columns<32, 24>());
  if (used - c == 8) body(c, Columns<16, 8>());
#endif
}

// Rows [row, end), a multiple of MR of them, in tiles of MR:
//   acc[MR][columns] = init + A[MR x k] B, k in ascending order for every element, so that an
// element's bits do not depend on the tile it falls in. With kTransposed `left` is A's transpose;
// without kInit init is zero. Per k: a load for each vector of B, MR broadcasts from memory, one
// FMA for each accumulator; bound by the FMA ports, and where another hardware thread takes slots
// of the front end by those, so that two steps of k share a loop's own instructions, and tiles
// those of the call. A function of its own: within a larger one g++ 12 keeps accumulators in
// memory. In cache on one thread of a Zen 3: 0.86 to 0.97 of the FMA peak, but 0.76 where k is 16:
// 12 stores and the ends of a tile beside 192 FMAs. AVX-512, of a Granite Rapids: 0.87 to 0.90 in
// the median of B0's shapes, as its clock falls by a fifth while loads and both units are busy, and
// 0.68 to 0.8 where 16 to 40 columns or steps of k leave little to do for each load and store.
template <int MR, class C, bool kTransposed, bool kInit, class A, class B, class Out>
[[gnu::noinline]] void gemm_rows(int row, int end, int k, A left, B b, Tile start, int column,
                                 const Out& out) {
  const ptrdiff_t lda = left.ld, ldb = b.ld, slab = b.slab, ldinit = start.ld;
  const float* a = left.data + (kTransposed ? row : row * lda);
  const float* init = kInit ? start.data + row * ldinit + column : nullptr;
  for (; row < end; row += MR, a += kTransposed ? MR : MR * lda, init += kInit ? MR * ldinit : 0) {
    V acc[MR][C::kVectors];
    [[maybe_unused]] HalfV half[C::kHalf ? MR : 1];
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < C::kFull; ++v)
        acc[r][v] = kInit ? load(init + r * ldinit + v * kWidth) : V(0.0f);
      if constexpr (C::kHalf)
        half[r] = kInit ? load_half(init + r * ldinit + C::kFull * kWidth) : HalfV{};
    }
    if constexpr (kTransposed) out.template expect<MR, C::kUsed>(row, column);
    const float* b_row = b.data;
    // Moves in the loop unless A is transposed: faster loops from g++ 12, either way.
    const float* a_l = a;
    const auto step = [&](int l) {
      const auto right = [&](int v) {
        return b_row + v / kLaneVectors * slab + v % kLaneVectors * kWidth;
      };
      const auto left_value = [&](int r) {
        return V(kTransposed ? a_l[l * lda + r] : a_l[r * lda]);
      };
      if constexpr (C::kFull > 2 * MR) {  // fewer registers for the values of A than for B's
        static_assert(!C::kHalf);
        V ar[MR];
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) ar[r] = left_value(r);
#pragma GCC unroll 8
        for (int v = 0; v < C::kFull; ++v) {
          const V bv = load(right(v));
#pragma GCC unroll 16
          for (int r = 0; r < MR; ++r) acc[r][v] = madd(ar[r], bv, acc[r][v]);
        }
      } else {
        V bv[C::kVectors];
        [[maybe_unused]] HalfV bh;
#pragma GCC unroll 8
        for (int v = 0; v < C::kFull; ++v) bv[v] = load(right(v));
        if constexpr (C::kHalf) bh = load_half(right(C::kFull));
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) {
          const V ar = left_value(r);
#pragma GCC unroll 8
          for (int v = 0; v < C::kFull; ++v) acc[r][v] = madd(ar, bv[v], acc[r][v]);
          if constexpr (C::kHalf) half[r] = madd_half(ar, bh, half[r]);
        }
      }
    };
    for (int left_k = k, steps = k; left_k > 0; left_k -= steps) {
      if constexpr (requires { out.within(); }) {
        out.within();
        steps = Out::kAskSteps < left_k ? Out::kAskSteps : left_k;
      }
#pragma GCC unroll 2
      for (int l = 0; l < steps; ++l, b_row += ldb, a_l += kTransposed ? 0 : 1) step(l);
      if constexpr (kTransposed) a_l += steps * lda;
    }
    if constexpr (C::kPadded > C::kUsed) {
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        if constexpr (C::kHalf) {
          acc[r][C::kFull] = widen(half[r]);
        } else {
          acc[r][C::kFull] = V(0.0f);
        }
      }
    }
    out.template store<MR, C::kVectors>(row, column, acc);
  }
}

// Rows [row, end) in tiles of `rows` of them, at most MR.
template <int MR, class C, bool kTransposed, bool kInit, class A, class B, class Out>
inline void gemm_tiles(int rows, int row, int end, int k, A a, B b, Tile init, int column,
                       const Out& out) {
  if constexpr (MR > 0) {
    if (rows == MR) {
      gemm_rows<MR, C, kTransposed, kInit>(row, end, k, a, b, init, column, out);
    } else {
      gemm_tiles<MR - 1, C, kTransposed, kInit>(rows, row, end, k, a, b, init, column, out);
    }
  }
}

// One group of columns, from `column` on, of all m >= 1 rows; `b` begins with it. Tiles differ by a
// row at most: one of a single row would wait for its own sums.
template <class C, bool kTransposed, bool kInit, class A, class B, class Out>
inline void gemm_columns(int m, int k, A a, B b, Tile init, int column, const Out& out) {
  constexpr int MR = C::kRows;
  assert(m > 0);
  const int tiles = ceil_div(m, MR), rows = m / tiles, longer = (rows + 1) * (m - rows * tiles);
  if (longer > 0)
    gemm_tiles<MR, C, kTransposed, kInit>(rows + 1, 0, longer, k, a, b, init, column, out);
  gemm_tiles<MR, C, kTransposed, kInit>(rows, longer, m, k, a, b, init, column, out);
}

// Register tiles of a product of m rows and `used` columns of a panel, or more.
inline int register_tiles(int m, int used) {
  int count = 0;
  for_each_columns(used,
                   [&](int, auto columns) { count += ceil_div(m, decltype(columns)::kRows); });
  return count;
}

// One panel: see gemm_panel.
template <bool kInit, class Out>
inline void gemm_panel_from(int m, int k, Tile a, Packed<const float> w, int k0, int panel,
                            Tile init, const Out& out) {
  const int first = panel * kWideBlock;
  const WeightPanel b(w, panel, k0);
  const auto product = [&](int c, auto columns) {
    gemm_columns<decltype(columns), false, kInit>(m, k, a, b.from(c), init, first + c, out);
  };
  if constexpr (kWidth == 8) {  // One row of 16 columns has two sums, which wait for themselves.
    if (m <= 2 && w.used(panel) == kWideBlock) return product(0, Columns<kWideBlock, kWideBlock>());
  }
  for_each_columns(w.used(panel), product);
}

// dW[k x used] = A[m x k]^T B[m x used], with `add` added to what is there, and the padding after
// `used` columns (see Packed). Meanwhile asks for what is left of `ahead`.
template <class A, class B>
inline void gemm_tn(int m, int k, int used, A a, B b, Slabs dw, bool add, Ahead& ahead) {
  with_flag(add, [&](auto flag) {
    using Out = StoreFilter<decltype(flag)::value>;
    ahead.share(register_tiles(k, used) * ceil_div(m, Out::kAskSteps));
    const Out out{dw, ahead};
    for_each_columns(used, [&](int c, auto columns) {
      gemm_columns<decltype(columns), true, false>(k, m, a, b.from(c), Tile{nullptr, 0}, c, out);
    });
  });
}

#else

inline int register_tiles(int m, int used) {
  return m * ceil_div(used, kLane);
}

template <bool kInit, class Out>
inline void gemm_panel_from(int m, int k, Tile a, Packed<const float> w, int k0, int panel,
                            Tile init, const Out& out) {
  const int end = panel * kWideBlock + w.width(panel);
  for (int column = panel * kWideBlock; column < end; column += kLane) {
    for (int row = 0; row < m; ++row) {
      float y[kLane];
      for (int c = 0; c < kLane; ++c) y[c] = kInit ? init.data[row * init.ld + column + c] : 0.0f;
      ref::conv1x1_forward(1, k, kLane, a.data + row * a.ld, a.ld, &w.at(k0, column), kLane, y,
                           kLane, true);
      for (int c = 0; c < kLane; ++c) {
        const V acc[1][1] = {{y[c]}};
        out.template store<1, 1>(row, column + c, acc);
      }
    }
  }
}

template <class A, class B>
inline void gemm_tn(int m, int k, int used, A a, B b, Slabs dw, bool add, Ahead&) {
  for (int c = 0; c < used; c += kLane) {
    for (int r = 0; r < k && !add; ++r) {
      for (int i = 0; i < kLane; ++i) dw.at(r, c)[i] = 0.0f;
    }
    ref::conv1x1_backward_filter(m, k, kLane, a.data, a.ld, b.data + c, b.ld, dw.at(0, c), dw.ld);
  }
}

#endif

// The same, asking for nothing.
template <class A, class B>
inline void gemm_tn(int m, int k, int used, A a, B b, Slabs dw, bool add) {
  Ahead nothing;
  gemm_tn(m, k, used, a, b, dw, add, nothing);
}

// Register tiles of a product of m rows and the panels [first, last) of w.
inline int register_tiles(int m, Packed<const float> w, int first, int last) {
  int count = 0;
  for (int panel = first; panel < last; ++panel) count += register_tiles(m, w.used(panel));
  return count;
}

// Output policy of gemm_panel: another one, and `ahead` is asked for within the register tiles of a
// product, as of a deep one the share of a whole tile would be too many lines at once.
template <class Out>
class AskingWithin {
 public:
  // AVX2: 64 and 32 gain less. AVX-512: 0.98 of the time of 96 at 32 pixels and of one picture.
  static constexpr int kAskSteps = kWidth == 16 ? 24 : 96;

  // For m rows, depth k and `used` columns.
  AskingWithin(const Out& out, Ahead& ahead, int m, int k, int used) : out_(out), ahead_(ahead) {
    ahead.share(register_tiles(m, used) * ceil_div(k, kAskSteps));
  }

  template <int MR, int NV>
  void store(int row, int column, const V (&acc)[MR][NV]) const {
    out_.template store<MR, NV>(row, column, acc);
  }
  void within() const { ahead_.ask(); }

 private:
  const Out& out_;
  Ahead& ahead_;
};

// out = A[m x k] B, where B is rows [k0, k0 + k) of columns [48 panel, ...) of `w`.
template <class Out>
inline void gemm_panel(int m, int k, Tile a, Packed<const float> w, int k0, int panel,
                       const Out& out) {
  gemm_panel_from<false>(m, k, a, w, k0, panel, {nullptr, 0}, out);
}
// The same, added to `init` if it has data. It must not be what `out` writes unless element by
// element.
template <class Out>
inline void gemm_panel(int m, int k, Tile a, Packed<const float> w, int k0, int panel, Tile init,
                       const Out& out) {
  with_flag(init.data != nullptr, [&](auto flag) {
    gemm_panel_from<decltype(flag)::value>(m, k, a, w, k0, panel, init, out);
  });
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
