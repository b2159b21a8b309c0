// The work item of pool at one ISA level: see ops/simd.h.

#include "ops/pool.h"

#include "ops/epilogue.h"

namespace mbconv::ops::MBCONV_LEVEL {

PoolItem pool;

namespace {

// Sums over rows [p0, p1) of image n, for one vector of channels at c.
template <class F, bool kSlopes>
inline void sum_rows(const Pool& args, int n, int p0, int p1, int c, double* out, int channels) {
  const Shape& shape = args.x.y.shape;
  const float* y = args.x.y.data + n * shape.image_stride() + channel_offset(shape, c);
  const V scale = load_or(args.x.scale, c, 1.0f), shift = load_or(args.x.shift, c, 0.0f);
  V mean(0.0f), invstd(0.0f);
  if (kSlopes) {
    mean = load(args.bn_mean + c);
    invstd = load(args.bn_invstd + c);
  }
  V x(0.0f), slope(0.0f), slope_xhat(0.0f);
  for (int p = p0; p < p1; ++p) {
    const float* at_pixel = y + ptrdiff_t{p} * shape.block;
    prefetch(at_pixel + kAhead);
    const V value = load(at_pixel);
    const V z = madd(scale, value, shift);
    if constexpr (kSlopes) {
      V derivative;
      x = x + F::value(z, derivative);
      slope = slope + derivative;
      slope_xhat = madd(derivative, (value - mean) * invstd, slope_xhat);
    } else {
      x = x + F::value(z);
    }
  }
  float lanes[3][kWidth];
  store(lanes[0], x);
  store(lanes[1], slope);
  store(lanes[2], slope_xhat);
  for (int plane = 0; plane < (kSlopes ? 3 : 1); ++plane) {
    for (int i = 0; i < kWidth; ++i) out[plane * channels + c + i] += lanes[plane][i];
  }
}

template <class F, bool kSlopes>
inline void pool_unit(const Pool& args, int slot, int unit) {
  const Shape& shape = args.x.y.shape;
  const int channels = shape.padded_c();
  const int c0 = unit * kWideBlock;
  const int c1 = c0 + kWideBlock < channels ? c0 + kWideBlock : channels;
  const RowCut::Range range = args.cut.item(slot, shape.n, shape.pixels());
  for (int n = range.first_image; n < range.first_image + range.images; ++n) {
    const int64_t base = int64_t{n} * shape.pixels();
    const int first = static_cast<int>(range.begin > base ? range.begin - base : 0);
    const int last =
        static_cast<int>(range.end - base < shape.pixels() ? range.end - base : shape.pixels());
    double* out = args.partial + ptrdiff_t{n * args.cut.parts + slot % args.cut.parts} *
                                     (kSlopes ? 3 : 1) * channels;
    for (int plane = 0; plane < (kSlopes ? 3 : 1); ++plane)
      clear(out + plane * channels + c0, c1 - c0);
    for (int p = first; p < last; p += kMaxTileRows) {
      const int end = p + kMaxTileRows < last ? p + kMaxTileRows : last;
      for (int c = c0; c < c1; c += kWidth) sum_rows<F, kSlopes>(args, n, p, end, c, out, channels);
    }
  }
}

}  // namespace

void pool(const Pool& args, int slot, int unit, float*) {
  with_activation(pending_activation(args.x), [&](auto f) {
    if (args.slopes != nullptr) {
      pool_unit<decltype(f), true>(args, slot, unit);
    } else {
      pool_unit<decltype(f), false>(args, slot, unit);
    }
  });
}

}  // namespace mbconv::ops::MBCONV_LEVEL
