// The work items of project_backward at one ISA level: see ops/simd.h.
//
// Measured on 2 threads of a Zen 4 (`step_bench --profile`, B0 at 224, batch 64, g++ 12), as a part
// of the FMA peak: 0.40 to 0.56 on maps of 112 to 28 pixels, 0.69 to 0.86 below (AVX2 0.31 to 0.47,
// 0.61 to 0.78). Each value of the wide side costs an exponential, a division and five sums, about
// 24 cycles a vector, beside 2 Cout FMAs: where Cout is 16 or 24, that is half of the time.

#include "ops/project.h"

#include "ops/column_sums.h"
#include "ops/epilogue.h"

namespace mbconv::ops::MBCONV_LEVEL {

ProjectBackwardItem project_backward, project_finish_dy;
ProjectSumsItem project_gate_gradient, project_sum_images;

namespace {

// Epilogue of g for pixels of one image, channels [c0, c0 + width): stores g, forms a * gate in
// place of it, and sums up P0..P4 in sums[5][kWideBlock], over what is there where it `begins`. Of
// two vectors at a time some constants come from memory, but whole lines of g are stored.
template <class F, bool kStream>
inline void gate_pixels(const ProjectBackward& args, const Pixels pixels, int c0, int width,
                        float* tile, float* sums, bool begins) {
  const ptrdiff_t image = ptrdiff_t{pixels.n} * args.x.y.shape.padded_c() + c0;
  const float* x = args.x.y.data + pixels.offset;
  float* to = args.g.data + pixels.offset;
  const float *scales = args.x.scale + c0, *shifts = args.x.shift + c0,
              *gates = args.x.gate + image;
  const float *means = args.mean + c0, *invstds = args.invstd + c0;
  for_each_run(pixels.count, width, [&](int p0, int p1, int c) {
    const Lane scale = load_lane(scales + c), shift = load_lane(shifts + c);
    const Lane gate = load_lane(gates + c), mean = load_lane(means + c);
    Lane sum[kGateSums];
    for (int i = 0; i < kGateSums; ++i) sum[i] = lane_of(0.0f);
    for (int p = p0; p < p1; ++p) {
      const ptrdiff_t from = p * pixels.stride + c;
      prefetch(x + pixels.next(p) + c);
      float* in_tile = tile + ptrdiff_t{p} * kWideBlock + c;
      for_each_vector([&](int v, int i) {
        const V g = load(in_tile + i), y = load(x + from + i);
        V slope;
        const V a = F::value(madd(scale.v[v], y, shift.v[v]), slope);
        const V centred = y - mean.v[v], g_slope = g * slope;
        sum[0].v[v] = madd(g, a, sum[0].v[v]);
        sum[1].v[v] = sum[1].v[v] + g_slope;
        sum[2].v[v] = sum[2].v[v] + slope;
        sum[3].v[v] = madd(g_slope, centred, sum[3].v[v]);
        sum[4].v[v] = madd(slope, centred, sum[4].v[v]);
        put<kStream>(to + from + i, g);
        store(in_tile + i, a * gate.v[v]);
      });
    }
    const bool add = !begins || p0 > 0;
    for_each_vector([&](int v, int i) {
      const V invstd = load(invstds + c + i);
      sum[3].v[v] = sum[3].v[v] * invstd;
      sum[4].v[v] = sum[4].v[v] * invstd;
      float* to_sums = sums + c + i;
      for (int s = 0; s < kGateSums; ++s, to_sums += kWideBlock)
        store(to_sums, add ? load(to_sums) + sum[s].v[v] : sum[s].v[v]);
    });
  });
}

struct ImagePart {
  int number, first_pixel;
};

// One channel panel of a tile: g = dy w^T, its epilogue, and dw, added to what is there with `add`.
// `part`: of the images that the tile is of.
template <class F, bool kStream>
inline void panel_rows(const ProjectBackward& args, const TileRows& rows, int panel, ptrdiff_t next,
                       ImagePart part, Tile dy, float* g, Packed<float> dw, bool add) {
  const Shape& shape = args.x.y.shape;
  const int c0 = panel * kWideBlock, width = args.wt.width(panel);
  Ahead ahead(shape, rows, c0, c0 + width, args.x.y.data, nullptr);
  ahead.share(register_tiles(rows.count, args.wt.used(panel)));
  gemm_panel(rows.count, args.wt.k, dy, args.wt, 0, panel,
             Asking{StoreTile{g - c0, kWideBlock}, ahead});
  const GateSlots slots(shape, args.cut);
  for_each_image(rows, [&](int n, int r0, int r1) {
    const int first = static_cast<int>(ptrdiff_t{n} * shape.pixels() - rows.begin);
    for (int r = r0, end; r < r1; r = end) {
      const int row = r - first - part.first_pixel, of_slot = row % kMaxTileRows;
      end = r1 - r < kMaxTileRows - of_slot ? r1 : r + kMaxTileRows - of_slot;
      float* tile = g + ptrdiff_t{r} * kWideBlock;
      const Pixels pixels = tile_pixels(shape, rows, n, r, end, c0, next);
      const int slot = part.number * slots.of_part + row / kMaxTileRows;
      gate_pixels<F, kStream>(args, pixels, c0, width, tile,
                              args.gate_sums + slots.at(panel, n, slot), of_slot == 0);
    }
  });
  const int used = args.dw.k - c0 < width ? args.dw.k - c0 : width;
  for (int q = 0; q < dw.panels(); ++q) {
    gemm_tn(rows.count, used, dw.used(q), WideTile{g}, dy.from(q * kWideBlock),
            panel_slabs(dw, q, c0), add);
  }
}

// Calls body(n, slot, pixels) for every filled slot of the images [first, last), the sums of that
// many pixels; part by part, whose rows are the same in every image.
template <class Body>
void for_each_gate_slot(const ProjectBackward& args, int first, int last, const Body& body) {
  const int pixels = args.x.y.shape.pixels(), parts = args.cut.parts;
  const GateSlots slots(args.x.y.shape, args.cut);
  for (int part = 0; part < parts; ++part) {
    const RowCut::Range rows = RowCut{1, parts, 1}.range(0, part, 1, pixels);
    for (int n = first; n < last; ++n) {
      int slot = part * slots.of_part, left = static_cast<int>(rows.end - rows.begin);
      for (; left > 0; ++slot, left -= kMaxTileRows)
        body(n, slot, left < kMaxTileRows ? left : kMaxTileRows);
    }
  }
}

}  // namespace

void project_backward(const ProjectBackward& args, int slot, int group, float* scratch) {
  const Shape& shape = args.x.y.shape;
  const int cout = args.dy.shape().padded_c();
  const RowCut::Range range = args.cut.item(slot, shape.n, shape.pixels());
  const auto [first, last] = group_of(args.wt.panels(), group, args.channel_groups);

  Packed<float> dw = args.dw;
  if (args.cut.items() > 1) {
    dw.data = args.dw_slots + slot * static_cast<ptrdiff_t>(dw.size());
  }
  Scratch memory(scratch);
  // Rows of a finished dy are contiguous and read where they are.
  const bool finished = !args.dy.y;
  float* formed = finished ? nullptr : memory.take(ptrdiff_t{kTileRows} * cout);
  const float* dy = finished ? args.dy.g.data + range.begin * cout : formed;
  float* g = memory.take(kTileRows * kWideBlock);
  bool add = args.cut.items() == 1;  // a slot is overwritten by its first tile
  const int64_t image = int64_t{range.first_image} * shape.pixels();
  const ImagePart part{slot % args.cut.parts, static_cast<int>(range.begin - image)};
  with_activation(args.x.activation, [&](auto f) {
    with_flag(streams(shape), [&](auto stream) {
      for_each_tile(range.begin, range.end, shape.pixels(), [&](const TileRows& rows) {
        if (!finished) load_grad_rows(args.dy, rows, 0, cout, kAhead, formed, cout);
        for (int panel = first; panel < last; ++panel) {
          const ptrdiff_t next = next_block(shape, rows, panel * kWideBlock, first, last);
          panel_rows<decltype(f), decltype(stream)::value>(args, rows, panel, next, part,
                                                           {dy, cout}, g, dw, add);
        }
        if (finished) dy += ptrdiff_t{rows.count} * cout;
        add = true;
      });
    });
  });
  fence_streams();
}

// Tile `tile` of finished_dy.
void project_finish_dy(const ProjectBackward& args, int tile, int, float*) {
  const Shape& shape = args.dy.shape();
  const int64_t begin = int64_t{tile} * kTileRows, left = shape.rows() - begin;
  const TileRows rows{begin, left < kTileRows ? static_cast<int>(left) : kTileRows, shape.pixels()};
  const int cout = shape.padded_c();
  load_grad_rows(args.dy, rows, 0, cout, kAhead, args.finished_dy + begin * cout, cout);
}

// P0 of image n to dgate.
void project_gate_gradient(const ProjectBackward& args, int n) {
  const Shape& shape = args.x.y.shape;
  const GateSlots slots(shape, args.cut);
  const int channels = shape.padded_c();
  float* dgate = args.dgate + ptrdiff_t{n} * channels;
  for (int panel = 0, c0 = 0; c0 < channels; ++panel, c0 += kWideBlock, dgate += kWideBlock) {
    const int width = channels - c0 < kWideBlock ? channels - c0 : kWideBlock;
    const float* p0 = args.gate_sums + slots.at(panel, n, 0);
    if (slots.count == 1) {
      for (int c = 0; c < width; c += kWidth) store(dgate + c, load(p0 + c));
      continue;
    }
    double sums[kWideBlock] = {};
    for_each_gate_slot(args, n, n + 1, [&](int, int slot, int) {
      const float* p = args.gate_sums + slots.at(panel, n, slot);
      for (int c = 0; c < width; ++c) sums[c] += p[c];
    });
    for (int c = 0; c < width; ++c) dgate[c] = static_cast<float>(sums[c]);
  }
}

// Sums of dz and dz * xhat over the batch for a panel of channels, in the same order for any number
// of threads.
void project_sum_images(const ProjectBackward& args, int panel) {
  const Shape& shape = args.x.y.shape;
  const GateSlots slots(shape, args.cut);
  const int channels = shape.padded_c(), c0 = panel * kWideBlock;
  const int width = channels - c0 < kWideBlock ? channels - c0 : kWideBlock;
  alignas(64) float memory[2 * kWideBlock];
  ColumnSums sums(memory, 2, args.sums.slot(0) + c0, channels, width);
  for_each_gate_slot(args, 0, shape.n, [&](int n, int slot, int pixels) {
    const float* p = args.gate_sums + slots.at(panel, n, slot);
    const float* gate = args.x.gate + ptrdiff_t{n} * channels + c0;
    const float* offset = args.se.offset + ptrdiff_t{n} * channels + c0;
    float *dz = sums.reserve(pixels), *dz_xhat = dz + width;
    for (int c = 0; c < width; c += kWidth, p += kWidth) {
      const V g = load(gate + c), o = load(offset + c);
      const V p1 = load(p + kWideBlock), p2 = load(p + 2 * kWideBlock);
      const V p3 = load(p + 3 * kWideBlock), p4 = load(p + 4 * kWideBlock);
      store(dz + c, madd(o, p2, madd(g, p1, load(dz + c))));
      store(dz_xhat + c, madd(o, p4, madd(g, p3, load(dz_xhat + c))));
    }
  });
  sums.flush();
}

}  // namespace mbconv::ops::MBCONV_LEVEL
