#pragma once

// The tile loops of convolutions that are matrix products (1x1, and the stem through im2col), per
// ISA level (see ops/simd.h):
//   prologue -> tile in scratch -> micro-kernel -> epilogue.
// Measured on 2 threads of a Zen 4 (`step_bench --profile`, B0 at 224, batch 64, g++ 12), as a part
// of the FMA peak: forward 0.56 to 0.74 on maps of 112 to 28 pixels, 0.68 to 0.86 below (AVX2 0.51
// to 0.65, 0.58 to 0.80); backward 0.56 to 0.65, then 0.71 to 0.83 (AVX2 0.50 to 0.56, 0.55 to
// 0.81). Large maps have 16 to 40 channels on the narrow side: little arithmetic for each value of
// the wide side that is brought in, normalised and stored.

#include "ops/conv1x1.h"
#include "ops/epilogue.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

struct Product {
  Packed<const float> w;
  int first, last;  // column panels of w
  View<float> y;
  const float* pivot;
  ChannelSums sums;
  Finish finish;
  // What `load` reads, if it is to be asked for ahead of that.
  View<const float> x = {};
  const InputGrad* input_grad = nullptr;  // if y is its dz
};

// The panels of y = x w over the rows [begin, end): raw, with batch-norm sums into slot `slot`,
// finished, or as an input gradient.
// load(rows, k0, depth, tile, ld): the prologue, columns [k0, k0 + depth) of x to tile[rows][ld];
// it returns that, or where else they are. Without kDeep w has at most kTileDepth rows, which are
// never far: less to compile.
template <bool kDeep, class Load>
inline void forward_rows(const Product& p, int64_t begin, int64_t end, int slot, float* scratch,
                         const Load& load) {
  const Shape& shape = p.y.shape;
  const int k = p.w.k, n = shape.padded_c();
  const int kc = k < kTileDepth ? round_up(k, kLane) : kTileDepth;
  Scratch memory(scratch);
  float* tile = memory.take(ptrdiff_t{kTileRows} * kc);
  const TileSums sums(memory, p.sums, slot, p.first * kWideBlock, p.last * kWideBlock);
  float* partial = k > kc ? memory.take(ptrdiff_t{kTileRows} * n) : nullptr;
  const bool in_tile = p.finish || p.input_grad != nullptr;
  float* products = in_tile ? memory.take(kTileRows * kWideBlock) : nullptr;
  const bool stream = streams(shape);
  int64_t row = begin;
  for_each_tile(begin, end, shape.pixels(), [&](const TileRows& rows) {
    row += rows.count;
    // Beyond the item too: the next one is this thread's, as a rule.
    const int64_t left = shape.rows() - row;
    const TileRows following{row, left < rows.count ? static_cast<int>(left) : rows.count,
                             shape.pixels()};
    const bool far = are_far(p.w, shape.rows(), rows.count);
    const int tiles = register_tiles(rows.count, p.w, p.first, p.last);
    for (int k0 = 0; k0 < k; k0 += kc) {
      const int depth = k - k0 < kc ? k - k0 : kc;
      const bool last = k0 + depth == k;
      const Tile init{k0 > 0 ? partial : nullptr, n};
      const Tile x = load(rows, k0, depth, tile, kc);
      // The panels ask for the next columns: of these rows, or of the next tile.
      const int next = last ? 0 : k0 + depth, next_end = k - next < kc ? k : next + kc;
      Ahead ahead(p.x.shape, last ? following : rows, next, next_end, p.x.data, nullptr);
      ahead.share(tiles);
      for (int panel = p.first; panel < p.last; ++panel) {
        const int c = panel * kWideBlock;
        const auto product = [&](const auto& out) {
          const Asking asking{out, ahead};
          if constexpr (!kDeep) {
            gemm_panel(rows.count, depth, x, p.w, k0, panel, asking);
          } else if (!far) {
            gemm_panel(rows.count, depth, x, p.w, k0, panel, init, asking);
          } else {
            Ahead weights(p.w, next_piece(p.w, {p.first, p.last}, {panel, k0, k0 + depth}));
            gemm_panel(rows.count, depth, x, p.w, k0, panel, init,
                       AskingWithin(asking, weights, rows.count, depth, p.w.used(panel)));
          }
        };
        if (kDeep && !last) {
          product(StoreTile{partial, n});
        } else if (in_tile) {
          product(StoreTile{products - c, kWideBlock});
          if (p.finish) {
            store_finished_rows(p.finish, rows, products, kWideBlock, c, p.w.width(panel), p.y);
          } else {
            store_input_grad(*p.input_grad, rows, products, kWideBlock, c, p.w.width(panel),
                             sums.tile);
          }
        } else {
          float* y = p.y.data + tile_offset(shape, rows, c) - c;
          with_flag(stream, [&](auto flag) {
            product(StoreOutput<decltype(flag)::value>{y, shape.block, p.pivot, sums.tile, n});
          });
        }
      }
    }
    sums.flush();
  });
  fence_streams();
}

// Where an item of a pass over `p` accumulates dw.
inline Packed<float> filter_slot(const Conv1x1Backward& p, int slot) {
  Packed<float> dw = p.dw;
  if (p.cut.slots() > 1) dw.data = p.dw_slots + ptrdiff_t{slot} * static_cast<ptrdiff_t>(dw.size());
  return dw;
}

// dx and dw over the rows of an item of a Conv1x1Backward in one sweep.
// load(rows, tile, ld): the prologue of x, which returns the tile or where else x[rows][ld] is.
// Without kInput dw alone.
template <bool kInput, class Load>
inline void backward_rows(const Conv1x1Backward& p, int slot, float* scratch, const Load& load) {
  const Shape& shape = p.dy.shape();
  const int cin = p.dw.k, ld = round_up(cin, kLane);
  const RowCut::Range range = p.cut.rows.item(slot, shape.n, shape.pixels());
  const Packed<float> dw = filter_slot(p, slot);
  bool add = p.cut.slots() == 1;  // a slot is overwritten by its first tile
  Scratch memory(scratch);
  float* x_tile = memory.take(ptrdiff_t{kTileRows} * ld);
  float* dy = memory.take(kTileRows * kWideBlock);
  float* dx = memory.take(ptrdiff_t{kTileRows} * ld);
  const TileSums sums(memory, p.dx.sums, slot, 0, ld);
  for_each_tile(range.begin, range.end, shape.pixels(), [&](const TileRows& rows) {
    const float* x = load(rows, x_tile, ld);
    for (int panel = 0; panel < dw.panels(); ++panel) {
      const int c = panel * kWideBlock, width = dw.width(panel);
      // The products of the panel before have asked for these rows of dy.
      load_grad_rows(p.dy, rows, c, width, 0, dy, kWideBlock);
      const ptrdiff_t next = next_panel(shape, rows, c, {0, dw.panels()});
      Ahead ahead(shape, rows, c, c + width, at(p.dy.g.data, next), at(p.dy.y.data, next));
      if constexpr (kInput) {
        // Half of it now, the rest while dw is computed.
        ahead.share(2 * register_tiles(rows.count, p.wt, 0, p.wt.panels()));
        const int depth = p.wt.k - c < width ? p.wt.k - c : width;
        const Tile init{panel > 0 ? dx : nullptr, ld};
        for (int q = 0; q < p.wt.panels(); ++q) {
          gemm_panel(rows.count, depth, {dy, kWideBlock}, p.wt, c, q, init,
                     Asking{StoreTile{dx, ld}, ahead});
        }
      }
      gemm_tn(rows.count, cin, dw.used(panel), Tile{x, ld}, WideTile{dy}, panel_slabs(dw, panel),
              add, ahead);
    }
    if constexpr (kInput) {
      store_input_grad(p.dx, rows, dx, ld, 0, ld, sums.tile);
      sums.flush();
    }
    add = true;
  });
  fence_streams();
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
