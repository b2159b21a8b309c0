#pragma once

// One column of channels of the depthwise forward pass, and the expand convolution in front of it,
// per ISA level (see ops/simd.h).

#include "ops/dwconv.h"
#include "ops/dwconv_unit.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// x[pixels][kLane] = f(x + bias), in place; channels [c0, c0 + kLane) of the tensor.
inline void finish_in_place(const Finish& finish, float* x, int pixels, int c0) {
  with_activation(finish.activation, [&](auto f) {
    finish_products<decltype(f), false, false>(finish, x, kLane, {0, 0, kLane, pixels, 0, 0}, c0,
                                               kLane, x, nullptr);
  });
}

// One column of channels of the depthwise forward pass. kDirect: y is streamed from the registers.
template <int K, int S, bool kDirect>
class ForwardColumn {
 public:
  ForwardColumn() = default;
  // Input lines of the ring: `lines`.
  ForwardColumn(const DwconvForward& args, int slot, int c0, int lines, bool staged,
                Scratch& memory)
      : args_(&args),
        c0_(c0),
        left_(same_padding(args.x.y.shape.w, K, S).before),
        x_lines_(args.x.y.shape, c0, lines_ahead(args.x.y.shape.w)),
        y_lines_(args.y.shape, c0),
        filter_(memory.take(K * K * kLane)),
        ring_(memory, lines, args.x.y.shape.w, K / 2),
        sums_(memory, args.sums, slot, c0) {
    for (int t = 0; t < K * K; ++t) copy_row(filter_tap(args.w, t, c0), kLane, filter_ + t * kLane);
    if (staged || args.finish) staged_ = memory.take(ptrdiff_t{args.y.shape.w} * kLane);
    if (args.pool_partial != nullptr) pool_memory_ = memory.take(kLane);
  }

  const LineRing& ring() const { return ring_; }

  // Begins with an image whose pool goes to partial[C], if not null.
  void begin(double* partial) {
    if (partial != nullptr)
      pool_ = ColumnSums(pool_memory_, 1, partial + c0_, args_->y.shape.padded_c());
  }
  void end() { pool_.flush(); }
  void finish() { sums_.flush(); }

  // Brings in input line h of image n, and writes it to x_out if it is the item's own.
  void load_line(int n, int h, bool own) const {
    load_pixels(args_->x, own ? args_->x_out : View<float>{}, x_lines_(n, h), c0_, kLane,
                ring_.line(h), kLane);
  }
  // Finishes input line h, whose products are in the ring.
  void finish_line(int h) const {
    finish_in_place(args_->expand.finish, ring_.line(h), x_lines_.width(), c0_);
  }

  // Output line o of image n, from `count` input lines at offset[], the first of them at line `row`
  // of the filter.
  void line(int n, int o, const ptrdiff_t* offset, int count, int row) {
    const Pixels pixels = y_lines_(n, o);
    float* y = staged_ != nullptr ? staged_ : args_->y.data + pixels.offset;
    const ptrdiff_t stride = staged_ != nullptr ? kLane : pixels.stride;
    for_each_piece(pixels.count, [&](int q0, int q1) {
      const Lines lines{ring_.line(0) + ptrdiff_t{q0 * S - left_} * kLane, offset,
                        filter_ + row * K * kLane, K * kLane, count};
      dwconv_line<K, S>(lines, q1 - q0,
                        StoreLine<kDirect>{y + q0 * stride, stride, at(args_->pivot, c0_),
                                           sums_.reserve(q1 - q0)});
      if (args_->finish) finish_products_of(pixels, q0, q1);
    });
    if (staged_ != nullptr && !args_->finish) stream_line(staged_, pixels, args_->y.data);
  }

 private:
  // Short lines arrive in time two steps ahead. (Granite Rapids and Zen 3: maps of 28 pixels and
  // less take 0.95 to 0.97 of their time.)
  static int lines_ahead(int width) { return width <= 28 ? 2 * S : S; }

  // Products [q0, q1) of a line to y, and their sums on their way to the pool.
  void finish_products_of(const Pixels& pixels, int q0, int q1) {
    store_finished(args_->finish, staged_ + ptrdiff_t{q0} * kLane, kLane, pixels.from(q0, q1 - q0),
                   c0_, kLane, args_->y, pool_.reserve(q1 - q0));
  }

  const DwconvForward* args_ = nullptr;
  int c0_ = 0, left_ = 0;
  ColumnLines x_lines_, y_lines_;
  float *filter_ = nullptr, *staged_ = nullptr, *pool_memory_ = nullptr;
  LineRing ring_;
  ColumnSums sums_, pool_;
};

// Output policy of gemm_panel: keeps products in the rings of a unit's columns, row r at offset[r]
// of each; one column's ring lies `pitch` after another's. `first` is the unit's first channel.
struct StoreColumns {
  float* ring;
  ptrdiff_t pitch;
  const ptrdiff_t* offset;
  int first;

  template <int MR, int NV>
  void store(int row, int column, const V (&acc)[MR][NV]) const {
    // Copies: for all that the compiler knows, a store of a vector changes any member.
    const ptrdiff_t* row_at = offset + row;
    const ptrdiff_t ring_pitch = pitch;
    float* base = ring;
    // Unsigned: its division by kLane is a shift alone.
    const unsigned c = static_cast<unsigned>(column - first);
    base += c / kLane * ring_pitch + c % kLane;
    constexpr int kOfLane = NV < kLaneVectors ? NV : kLaneVectors;
    static_assert(NV % kOfLane == 0);
#pragma GCC unroll 16
    for (int v = 0; v < NV; v += kOfLane, base += ring_pitch) {
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        float* to = base + row_at[r];
#pragma GCC unroll 2
        for (int i = 0; i < kOfLane; ++i) ops::MBCONV_LEVEL::store(to + i * kWidth, acc[r][v + i]);
      }
    }
  }
};

// The weights that the unit after `unit` expands with, if they are far from products of `rows`
// rows.
inline Ahead expand_weights_after(const DwconvExpand& expand, int unit, int rows) {
  const Packed<const float>& w = expand.w;
  if (!expand || !are_far(w, expand.v.shape.rows(), rows)) return {};
  return {w, next_piece(w, {unit, unit + 1}, {unit, 0, w.k})};
}

// Products of the expand convolution for lines [h, h + count) of image n, to the rings of a unit.
// Meanwhile asks for `weights`.
[[gnu::noinline]] inline void expand_lines(const DwconvExpand& expand, int n, int h, int count,
                                           int unit, const LineRing& ring, ptrdiff_t pitch,
                                           Ahead& weights) {
  const Shape& v = expand.v.shape;
  int line = h, pixel = 0;
  for (int rows = count * v.w; rows > 0; rows -= kTileRows) {
    const int m = rows < kTileRows ? rows : kTileRows;
    const float* x = expand.v.pixel(n, 0, line * v.w + pixel);
    ptrdiff_t offset[kTileRows];
    for (int r = 0; r < m;) {
      const ptrdiff_t first = ring.offset(line);
      for (; r < m && pixel < v.w; ++r, ++pixel) offset[r] = first + ptrdiff_t{pixel} * kLane;
      if (pixel == v.w) {
        pixel = 0;
        ++line;
      }
    }
    const StoreColumns out{ring.line(0), pitch, offset, unit * kWideBlock};
    if (!weights.any()) {  // loops that ask are slower
      gemm_panel(m, expand.w.k, {x, v.block}, expand.w, 0, unit, out);
      continue;
    }
    gemm_panel(m, expand.w.k, {x, v.block}, expand.w, 0, unit,
               AskingWithin(out, weights, m, expand.w.k, expand.w.used(unit)));
  }
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
