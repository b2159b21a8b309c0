// The work items of conv1x1 at one ISA level: see ops/simd.h.

#include "ops/gemm_pass.h"

namespace mbconv::ops::MBCONV_LEVEL {

Conv1x1ForwardItem conv1x1_forward;
Conv1x1BackwardItem conv1x1_backward, conv1x1_backward_join;

void conv1x1_forward(const Conv1x1Forward& args, int slot, int group, float* scratch) {
  const Shape& shape = args.x.y.shape;
  const int first = args.w.panels() * group / args.column_groups;
  const int last = args.w.panels() * (group + 1) / args.column_groups;
  const View<float> x_out = group == 0 ? args.x_out : View<float>{};
  const RowCut::Range range = args.cut.item(slot, shape.n, shape.pixels());
  // A chunk of the depth may span several blocks of a wide tensor.
  const auto load = [&](const TileRows& rows, int k0, int depth, float* tile, int ld) {
    for (int k = 0; k < depth; k += shape.block) {
      const int left = round_up(depth - k, kLane);
      load_rows(args.x, x_out, rows, k0 + k, left < shape.block ? left : shape.block,
                next_block(shape, rows, k0 + k, 0, shape.blocks()), tile + k, ld);
    }
  };
  forward_rows({args.w, first, last, args.y, args.pivot, args.sums, args.finish, args.x.y},
               range.begin, range.end, slot, scratch, load);
}

void conv1x1_backward(const Conv1x1Backward& args, int slot, int group, float* scratch) {
  const int width = args.x.y.shape.padded_c();
  backward_rows(args, slot, group, scratch, [&](const TileRows& rows, float* tile, int ld) {
    load_rows(args.x, {}, rows, 0, width, kAhead, tile, ld);
  });
}

// After the channel groups of a row range: adds their partial sums in order and applies the
// epilogue.
void conv1x1_backward_join(const Conv1x1Backward& args, int slot, int, float* scratch) {
  const Shape& shape = args.dx.dz.shape;
  const ptrdiff_t ld = shape.padded_c();
  const RowCut::Range range = args.cut.item(slot, shape.n, shape.pixels());
  Scratch memory(scratch);
  float* dx = memory.take(kTileRows * ld);
  const TileSums sums(memory, args.dx.sums, slot, 0, shape.padded_c());
  int64_t row = range.begin;
  for_each_tile(range.begin, range.end, shape.pixels(), [&](const TileRows& rows) {
    const ptrdiff_t count = rows.count * ld;
    for (ptrdiff_t i = 0; i < count; i += kWidth) {
      V sum = load(args.dx_partial + row * ld + i);
      for (int g = 1; g < args.channel_groups; ++g) {
        sum = sum + load(args.dx_partial + (g * shape.rows() + row) * ld + i);
      }
      store(dx + i, sum);
    }
    store_input_grad(args.dx, rows, dx, ld, sums.tile);
    sums.flush();
    row += rows.count;
  });
  fence_streams();
}

}  // namespace mbconv::ops::MBCONV_LEVEL
