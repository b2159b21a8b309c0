#pragma once

// Memory that is asked for while something else is computed, per ISA level (see ops/simd.h).

#include <cassert>

#include "ops/far_weights.h"
#include "ops/tile_rows.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// Lines of up to two tensors of one shape, or of weights, asked for in their order in memory, some
// with each of a number of calls: in order they arrive sooner, and of many at once some are
// dropped, as a core waits for a few dozen lines at most. (Zen 3, B0 at 224: expand backward passes
// over maps of 112 to 28 pixels take 0.89 of their time.)
class Ahead {
 public:
  // Nothing.
  Ahead() = default;
  // Channels [c0, c1), of one block or of whole ones, of the rows of a tile. Tensors may be null.
  Ahead(const Shape& shape, const TileRows& rows, int c0, int c1, const float* first,
        const float* second)
      : first_(first), second_(second) {
    if (first == nullptr && second == nullptr) return;
    const int lanes = ceil_div(c1 - c0, kLane), of_block = (shape.block - c0 % shape.block) / kLane;
    lanes_ = lanes < of_block ? lanes : of_block;
    assert(lanes == 0 || lanes % lanes_ == 0);
    rows_ = rows.count;
    left_ = rows.count * lanes;
    block_at_ = at_ = tile_offset(shape, rows, c0);
    block_stride_ = shape.block_stride();
    gap_ = shape.block - ptrdiff_t{lanes_} * kLane;
    if (gap_ == 0) {  // one stream
      lanes_ *= rows_;
      rows_ = 1;
    }
  }

  // A piece of weights: its slabs take the place of rows, its rows that of lanes.
  Ahead(Packed<const float> w, const WeightPiece& piece)
      : first_(w.panel(piece.panel, piece.k0)),
        lanes_(piece.k1 - piece.k0),
        rows_(w.width(piece.panel) / kLane),
        gap_(w.slab_stride() - ptrdiff_t{lanes_} * kLane),
        left_(lanes_ * rows_) {}

  // What is left is asked for by the next `calls` calls of ask().
  void share(int calls) {
    constexpr int kFew = 8;  // not worth a call
    part_ = ceil_div(left_, calls);
    if (part_ < kFew) part_ = kFew;
  }
  bool any() const { return left_ > 0; }
  void ask() {
    if (any()) ask_part();
  }

 private:
  // Out of line: its registers are not missing in the loops around.
  [[gnu::noinline]] void ask_part() {
    asm volatile("");  // or calls are dropped: prefetches are no effect of a function
    int count = left_ < part_ ? left_ : part_;
    left_ -= count;
    while (count > 0) {
      const int run = count < lanes_ - lane_ ? count : lanes_ - lane_;
      ask_lines(first_, run);
      ask_lines(second_, run);
      count -= run;
      lane_ += run;
      at_ += ptrdiff_t{run} * kLane;
      if (lane_ < lanes_) return;
      lane_ = 0;
      at_ += gap_;
      if (++row_ < rows_) continue;
      row_ = 0;
      block_at_ += block_stride_;
      at_ = block_at_;
    }
  }
  void ask_lines(const float* tensor, int count) const {
    if (tensor == nullptr) return;
    const float* line = tensor + at_;
    for (int i = 0; i < count; ++i, line += kLane) prefetch(line);
  }

  const float *first_ = nullptr, *second_ = nullptr;
  int lanes_ = 0, rows_ = 0;              // of a block
  ptrdiff_t gap_ = 0, block_stride_ = 0;  // from row to row, from block to block
  int left_ = 0, part_ = 0;               // lines
  int lane_ = 0, row_ = 0;                // of the next line
  ptrdiff_t at_ = 0, block_at_ = 0;       // where it lies, and its block
};

// Output policy of gemm_panel: another one, and each register tile asks for its share of `ahead`.
template <class Out>
struct Asking {
  const Out& out;
  Ahead& ahead;

  template <int MR, int NV>
  void store(int row, int column, const V (&acc)[MR][NV]) const {
    out.template store<MR, NV>(row, column, acc);
    ahead.ask();
  }
};
template <class Out>
Asking(const Out&, Ahead&) -> Asking<Out>;

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
