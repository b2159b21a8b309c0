// The work items of the stem at one ISA level: see ops/simd.h.

#include "ops/stem.h"

#include "ops/gemm_pass.h"
#include "ops/padding.h"

namespace mbconv::ops::MBCONV_LEVEL {

StemForwardItem stem_forward;
StemBackwardItem stem_backward;

namespace {

// Prologue: the 27 inputs of each row's output pixel, zero outside of the picture.
struct Im2col {
  const float* x;
  int h, w, out_w, top, left;

  Im2col(const float* pictures, int height, int width, const Shape& y)
      : x(pictures),
        h(height),
        w(width),
        out_w(y.w),
        top(same_padding(height, 3, 2).before),
        left(same_padding(width, 3, 2).before) {}

  void load_rows(const TileRows& rows, float* tile, ptrdiff_t ld) const {
    for_each_image(rows, [&](int n, int r0, int r1) {
      const float* picture = x + ptrdiff_t{n} * h * w * 3;
      const int before = static_cast<int>(rows.begin - ptrdiff_t{n} * rows.pixels);
      for (int r = r0; r < r1;) {  // output line by output line
        const int line = (before + r) / out_w, first = (before + r) % out_w;
        const int last = first + r1 - r < out_w ? first + r1 - r : out_w;
        for (int q = first; q < last; ++q, ++r)
          load_patch(picture, 2 * line - top, 2 * q - left, tile + r * ld);
      }
    });
  }

 private:
  // The 3 x 3 pixels from line i, column j on. Three pixels of a line are contiguous.
  void load_patch(const float* picture, int i, int j, float* out) const {
    constexpr int kTaps = 9;
    const bool inside = i >= 0 && i + 3 <= h && j >= 0 && j + 3 <= w;
    for (int tap = 0; tap < 3; ++tap, ++i, out += kTaps) {
      const float* in = picture + (ptrdiff_t{i} * w + j) * 3;
      prefetch(in + ptrdiff_t{6} * w);  // for the next output line
      if (inside) {
        __builtin_memcpy(out, in, kTaps * sizeof(float));
        continue;
      }
      clear(out, kTaps);
      if (i < 0 || i >= h) continue;
      const int first = j < 0 ? -j : 0, last = w - j < 3 ? w - j : 3;
      for (int k = 3 * first; k < 3 * last; ++k) out[k] = in[k];
    }
  }
};

}  // namespace

void stem_forward(const StemForward& args, int slot, float* scratch) {
  const Shape& y = args.y.shape;
  const RowCut::Range range = args.cut.item(slot, y.n, y.pixels());
  const Im2col im2col(args.x, args.h, args.w, y);
  static_assert(kStemDepth <= kTileDepth);
  forward_rows<false>(
      {args.filter, 0, args.filter.panels(), args.y, args.pivot, args.sums, args.finish, {}},
      range.begin, range.end, slot, scratch,
      [&](const TileRows& rows, int, int, float* tile, int ld) -> Tile {
        im2col.load_rows(rows, tile, ld);
        return {tile, ld};
      });
}

void stem_backward(const StemBackward& args, int slot, float* scratch) {
  Conv1x1Backward product{};
  product.dy = args.dy;
  product.dw = args.dfilter;
  product.dw_slots = args.slots;
  product.cut.rows = args.cut;
  const Im2col im2col(args.x, args.h, args.w, args.dy.shape());
  backward_rows<false>(product, slot, scratch, [&](const TileRows& rows, float* tile, int ld) {
    im2col.load_rows(rows, tile, ld);
    return tile;
  });
}

}  // namespace mbconv::ops::MBCONV_LEVEL
