// The work item of project_backward at one ISA level: see ops/simd.h.
//
// Measured on 2 threads of a Zen 4 (`step_bench --profile`, B0 at 224, batch 64, g++ 12), as a part
// of the FMA peak: 0.35 to 0.53 on maps of 112 to 28 pixels, 0.62 to 0.78 below (AVX2 0.29 to 0.42,
// 0.42 to 0.65). Each value of the wide side costs an exponential, a division and five sums, about
// 28 cycles a vector, beside 2 Cout FMAs: where Cout is 16 or 24, that is half of the time.

#include "ops/project.h"

#include "ops/epilogue.h"

namespace mbconv::ops::MBCONV_LEVEL {

ProjectBackwardItem project_backward;

namespace {

// Epilogue of g for rows [r0, r1) of a tile, all of image n, and one vector of channels: stores g,
// forms a * gate in place of it, and adds P0..P4 to sums[5][channels].
template <class F, bool kStream>
inline void gate_rows(const ProjectBackward& args, const TileRows& rows, int r0, int r1, int c,
                      ptrdiff_t ahead, float* tile, double* sums, int channels) {
  const Shape& shape = args.x.y.shape;
  const V scale = load(args.x.scale + c), shift = load(args.x.shift + c);
  const V mean = load(args.mean + c), invstd = load(args.invstd + c);
  const V gate = load(args.x.gate + ptrdiff_t{rows.image[r0]} * channels + c);
  V p[kGateSums];
  for (V& sum : p) sum = V(0.0f);
  const Pixels pixels = tile_pixels(shape, rows, r0, r1, c, ahead);
  for (int r = r0; r < r1; ++r) {
    const ptrdiff_t offset = pixels.offset + (r - r0) * pixels.stride;
    prefetch(args.x.y.data + offset + pixels.ahead);
    float* in_tile = tile + ptrdiff_t{r} * kWideBlock;
    const V g = load(in_tile), y = load(args.x.y.data + offset);
    V slope;
    const V a = F::value(madd(scale, y, shift), slope);
    const V xhat = (y - mean) * invstd, g_slope = g * slope;
    p[0] = madd(g, a, p[0]);
    p[1] = p[1] + g_slope;
    p[2] = p[2] + slope;
    p[3] = madd(g_slope, xhat, p[3]);
    p[4] = madd(slope, xhat, p[4]);
    if constexpr (!kStaged<kStream>) put<kStream>(args.g.data + offset, g);
    store(in_tile, a * gate);
  }
  for (int i = 0; i < kGateSums; ++i) {
    float lanes[kWidth];
    store(lanes, p[i]);
    for (int l = 0; l < kWidth; ++l) sums[i * channels + c + l] += lanes[l];
  }
}

// One channel panel of a tile: g = dy w^T, its epilogue, and dw, added to what is there with `add`.
template <class F, bool kStream>
inline void panel_rows(const ProjectBackward& args, const TileRows& rows, int panel,
                       ptrdiff_t ahead, int part, Tile dy, float* g, Packed<float> dw, bool add) {
  const int channels = args.x.y.shape.padded_c(), parts = args.cut.parts;
  const int c0 = panel * kWideBlock, width = args.wt.width(panel);
  gemm_panel(rows.count, args.wt.k, dy, args.wt, 0, panel, {nullptr, 0},
             StoreTileAndPrefetch{{g - c0, kWideBlock},
                                  rows,
                                  args.x.y.shape,
                                  args.x.y.data,
                                  nullptr,
                                  channel_offset(args.x.y.shape, c0),
                                  width});
  for_each_image(rows, [&](int r0, int r1) {
    double* sums = args.gate_sums + ptrdiff_t{rows.image[r0] * parts + part} * kGateSums * channels;
    if constexpr (kStaged<kStream>) {
      stream_pixels(g + ptrdiff_t{r0} * kWideBlock, kWideBlock,
                    tile_pixels(args.x.y.shape, rows, r0, r1, c0, 0), width, args.g.data);
    }
    for (int c = 0; c < width; c += kWidth) {
      gate_rows<F, kStream>(args, rows, r0, r1, c0 + c, ahead, g + c, sums, channels);
    }
  });
  const int used = args.dw.k - c0 < width ? args.dw.k - c0 : width;
  for (int q = 0; q < dw.panels(); ++q) {
    gemm_tn(rows.count, used, dw.width(q), {g, kWideBlock}, {dy.data + q * kWideBlock, dy.ld},
            dw.panel(q) + ptrdiff_t{c0} * dw.width(q), dw.width(q), add);
  }
}

}  // namespace

void project_backward(const ProjectBackward& args, int slot, int group, float* scratch) {
  const Shape& shape = args.x.y.shape;
  const int channels = shape.padded_c(), cout = args.dy.shape().padded_c();
  const RowCut::Range range = args.cut.item(slot, shape.n, shape.pixels());
  const int parts = args.cut.parts, part = slot % parts;
  const int first = args.wt.panels() * group / args.channel_groups;
  const int last = args.wt.panels() * (group + 1) / args.channel_groups;
  const int c0 = first * kWideBlock;
  const int c1 = last * kWideBlock < channels ? last * kWideBlock : channels;

  Packed<float> dw = args.dw;
  if (args.cut.items() > 1) {
    dw.data = args.dw_slots + slot * static_cast<ptrdiff_t>(dw.size());
  }
  for (int n = range.first_image; n < range.first_image + range.images; ++n) {
    double* sums = args.gate_sums + ptrdiff_t{n * parts + part} * kGateSums * channels;
    for (int i = 0; i < kGateSums; ++i) clear(sums + i * channels + c0, c1 - c0);
  }
  Scratch memory(scratch);
  float* dy = memory.take(ptrdiff_t{kTileRows} * cout);
  float* g = memory.take(kTileRows * kWideBlock);
  bool add = args.cut.items() == 1;  // a slot is overwritten by its first tile
  with_activation(args.x.activation, [&](auto f) {
    with_flag(streams(shape), [&](auto stream) {
      for_each_tile(range.begin, range.end, shape.pixels(), [&](const TileRows& rows) {
        load_grad_rows(args.dy, rows, 0, cout, kAhead, dy, cout);
        for (int panel = first; panel < last; ++panel) {
          const ptrdiff_t ahead = next_block(shape, rows, panel * kWideBlock, first, last);
          panel_rows<decltype(f), decltype(stream)::value>(args, rows, panel, ahead, part,
                                                           {dy, cout}, g, dw, add);
        }
        add = true;
      });
    });
  });
  fence_streams();
}

}  // namespace mbconv::ops::MBCONV_LEVEL
