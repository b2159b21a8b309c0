// The work items of conv1x1 at one ISA level: see ops/simd.h.

#include "ops/gemm_pass.h"

namespace mbconv::ops::MBCONV_LEVEL {

Conv1x1ForwardItem conv1x1_forward, conv1x1_finish_input;
Conv1x1BackwardItem conv1x1_backward;

namespace {

// Calls body(k, width) for the blocks of a tensor of which columns [k0, k0 + depth) consist.
template <class Body>
void for_each_block(const Shape& shape, int k0, int depth, const Body& body) {
  for (int k = 0; k < depth; k += shape.block) {
    const int left = round_up(depth - k, kLane);
    body(k0 + k, left < shape.block ? left : shape.block);
  }
}

// Columns [k0, k0 + depth) of the finished x to tile[rows][ld] and to x_out, if that is given.
void load_columns(const Deferred& x, View<float> x_out, const TileRows& rows, int k0, int depth,
                  float* tile, int ld) {
  const Shape& shape = x.y.shape;
  for_each_block(shape, k0, depth, [&](int k, int width) {
    load_rows(x, x_out, rows, k, width, next_block(shape, rows, k, 0, shape.blocks()),
              tile + k - k0, ld);
  });
}

bool gates_weights(const Conv1x1Forward& args) {
  const Deferred& x = args.x;
  return x.gate != nullptr && x.scale == nullptr && !x.skip && !args.x_out &&
         args.cut.images == 1 && ops::gates_weights(x.y.shape, args.w);
}

// gated[k,n] = w[k,n] gate[k], the panels of a group.
void gate_weights(Packed<const float> w, const float* gate, Panels panels, Packed<float> gated) {
  const int last = panels.last * kWideBlock, end = last < w.padded_n() ? last : w.padded_n();
  for (int n = panels.first * kWideBlock; n < end; n += kLane) {
    const float* from = &w.at(0, n);
    float* to = &gated.at(0, n);
    for (int k = 0; k < w.k; ++k, from += kLane, to += kLane) {
      const V g(gate[k]);
      for (int c = 0; c < kLane; c += kWidth) store(to + c, load(from + c) * g);
    }
  }
}

// Where the columns from k0 on of a tile's rows lie in an NHWC tensor.
Tile rows_in_place(View<const float> x, const TileRows& rows, int k0) {
  return {x.data + tile_offset(x.shape, rows, 0) + k0, x.shape.block};
}

}  // namespace

void conv1x1_forward(const Conv1x1Forward& args, int slot, int group, float* scratch) {
  const Shape& shape = args.x.y.shape;
  const Panels panels = group_of(args.w.panels(), group, args.column_groups);
  const View<float> x_out = group == 0 ? args.x_out : View<float>{};
  const RowCut::Range range = args.cut.item(slot, shape.n, shape.pixels());
  Deferred x = args.x;
  Packed<const float> w = args.w;
  if (gates_weights(args)) {
    const Packed<float> gated{scratch, w.k, w.n};
    gate_weights(w, x.gate + ptrdiff_t{range.first_image} * shape.padded_c(), panels, gated);
    scratch += gated.size();
    w = gated;
    x.gate = nullptr;
  }
  const bool in_place = x.finished() && !x_out && shape.blocks() == 1;
  const auto load = [&](const TileRows& rows, int k0, int depth, float* tile, int ld) -> Tile {
    if (in_place) return rows_in_place(x.y, rows, k0);
    load_columns(x, x_out, rows, k0, depth, tile, ld);
    return {tile, ld};
  };
  forward_rows<true>(
      {w, panels.first, panels.last, args.y, args.pivot, args.sums, args.finish, x.y}, range.begin,
      range.end, slot, scratch, load);
}

void conv1x1_finish_input(const Conv1x1Forward& args, int slot, int, float* scratch) {
  const Shape& shape = args.x.y.shape;
  const RowCut::Range range = args.cut.item(slot, shape.n, shape.pixels());
  for_each_tile(range.begin, range.end, shape.pixels(), [&](const TileRows& rows) {
    for (int k0 = 0; k0 < shape.c; k0 += kTileDepth) {
      const int depth = shape.c - k0 < kTileDepth ? shape.c - k0 : kTileDepth;
      load_columns(args.x, args.x_out, rows, k0, depth, scratch, round_up(depth, kLane));
    }
  });
}

namespace {

// dx over one row range and column group of a finished dy: the forward product with w's transpose.
void input_rows(const Conv1x1Backward& args, int slot, int group, float* scratch) {
  const Shape& shape = args.dy.shape();
  const RowCut::Range range = args.cut.rows.item(slot, shape.n, shape.pixels());
  const Panels panels = group_of(args.wt.panels(), group, args.cut.column_groups);
  Product product{args.wt, panels.first, panels.last, args.dx.dz, nullptr, args.dx.sums, {}};
  product.x = args.dy.g;
  product.input_grad = &args.dx;
  forward_rows<true>(product, range.begin, range.end, slot, scratch,
                     [&](const TileRows& rows, int k0, int, float*, int) {
                       return rows_in_place(args.dy.g, rows, k0);
                     });
}

// dw over one row range, group of its column panels, and range of its own rows. The first of these
// leaves those columns of dy behind, finished, where it goes through a batch norm.
template <class Load>
void filter_rows(const Conv1x1Backward& args, int slot, int group, int depth, float* scratch,
                 const Load& load) {
  const Shape& shape = args.dy.shape();
  const int ld = round_up(args.dw.k, kLane);
  const RowCut::Range range = args.cut.filter_rows.item(slot, shape.n, shape.pixels());
  const Panels panels = group_of(args.dw.panels(), group, args.cut.filter_groups);
  const Panels lanes = group_of(ceil_div(args.dw.k, kLane), depth, args.cut.filter_depths);
  const int k0 = lanes.first * kLane, last = lanes.last * kLane;
  const int k1 = last < args.dw.k ? last : args.dw.k;
  const Packed<float> dw = filter_slot(args, slot);
  const View<float> finished = finished_dy(args);
  bool add = args.cut.slots() == 1;  // a slot is overwritten by its first tile
  Scratch memory(scratch);
  float* x_tile = memory.take(ptrdiff_t{kTileRows} * ld);
  float* dy = memory.take(kTileRows * kWideBlock);
  for_each_tile(range.begin, range.end, shape.pixels(), [&](const TileRows& rows) {
    const float* x = load(rows, x_tile, ld);
    for (int panel = panels.first; panel < panels.last; ++panel) {
      const int c = panel * kWideBlock, width = dw.width(panel);
      // The product before has asked for these rows of dy, but for the first tile's.
      load_grad_rows(args.dy, rows, c, width, 0, dy, kWideBlock);
      if (args.dy.y && depth == 0) {
        with_flag(streams(finished.shape), [&](auto stream) {
          store_rows<decltype(stream)::value>(dy, kWideBlock, rows, c, width, finished);
        });
      }
      const ptrdiff_t next = next_panel(shape, rows, c, panels);
      Ahead ahead(shape, rows, c, c + width, at(args.dy.g.data, next), at(args.dy.y.data, next));
      gemm_tn(rows.count, k1 - k0, dw.used(panel), Tile{x + k0, ld}, WideTile{dy},
              panel_slabs(dw, panel, k0), add, ahead);
    }
    add = true;
  });
  fence_streams();
}

}  // namespace

void conv1x1_backward(const Conv1x1Backward& args, int item, float* scratch) {
  const Deferred& x = args.x;
  const auto load = [&](const TileRows& rows, float* tile, int ld) -> const float* {
    // Rows of a finished x are contiguous: they are read where they are.
    if (x.finished()) return rows_in_place(x.y, rows, 0).data;
    load_rows(x, {}, rows, 0, ld, kAhead, tile, ld);
    return tile;
  };
  const Conv1x1BackwardCut& cut = args.cut;
  const int input_item = item - cut.filter_items();
  if (cut.one_sweep()) {
    with_flag(static_cast<bool>(args.dx), [&](auto input) {
      backward_rows<decltype(input)::value>(args, item, scratch, load);
    });
  } else if (input_item >= 0) {
    input_rows(args, input_item / cut.column_groups, input_item % cut.column_groups, scratch);
  } else {
    const int panels = item / cut.filter_depths, depth = item % cut.filter_depths;
    filter_rows(args, panels / cut.filter_groups, panels % cut.filter_groups, depth, scratch, load);
  }
}

}  // namespace mbconv::ops::MBCONV_LEVEL
