// The work item of pool at one ISA level: see ops/simd.h.

#include "ops/pool.h"

#include "ops/epilogue.h"

namespace mbconv::ops::MBCONV_LEVEL {

PoolItem pool;

namespace {

// The sums over pixels to sums[planes][kWideBlock], channels [c0, c0 + width): of f, and with
// kSlopes of f' and f' xhat.
template <class F, bool kSlopes>
inline void sum_pixels(const Pool& args, const Pixels pixels, int c0, int width, float* sums) {
  const float* y = args.x.y.data + pixels.offset;
  const float *scales = at(args.x.scale, c0), *shifts = at(args.x.shift, c0);
  const float *means = at(args.bn_mean, c0), *invstds = at(args.bn_invstd, c0);
  for_each_run(pixels.count, width, [&](int p0, int p1, int c) {
    const Lane scale = load_lane_or(scales, c, 1.0f), shift = load_lane_or(shifts, c, 0.0f);
    const Lane mean = load_lane_or(means, c, 0.0f);
    Lane sum = lane_of(0.0f), slope_sum = sum, slope_centred = sum;
    for (int p = p0; p < p1; ++p) {
      const float* pixel = y + p * pixels.stride + c;
      prefetch(y + pixels.next(p) + c);
      for_each_vector([&](int v, int i) {
        const V value = load(pixel + i), z = madd(scale.v[v], value, shift.v[v]);
        if constexpr (kSlopes) {
          V slope;
          sum.v[v] = sum.v[v] + F::value(z, slope);
          slope_sum.v[v] = slope_sum.v[v] + slope;
          slope_centred.v[v] = madd(slope, value - mean.v[v], slope_centred.v[v]);
        } else {
          sum.v[v] = sum.v[v] + F::value(z);
        }
      });
    }
    for_each_vector([&](int v, int i) {
      const auto add = [&](int plane, V value) {
        float* to = sums + plane * kWideBlock + c + i;
        store(to, p0 > 0 ? load(to) + value : value);
      };
      add(0, sum.v[v]);
      if constexpr (kSlopes) {
        add(1, slope_sum.v[v]);
        add(2, slope_centred.v[v] * load(invstds + c + i));
      }
    });
  });
}

template <class F, bool kSlopes>
inline void pool_unit(const Pool& args, int slot, int unit) {
  const Shape& shape = args.x.y.shape;
  const int channels = shape.padded_c();
  const int c0 = unit * kWideBlock;
  const int width = channels - c0 < kWideBlock ? channels - c0 : kWideBlock;
  constexpr int kPlanes = kSlopes ? 3 : 1;
  const RowCut::Range range = args.cut.item(slot, shape.n, shape.pixels());
  for (int n = range.first_image; n < range.first_image + range.images; ++n) {
    const int64_t base = int64_t{n} * shape.pixels();
    const int first = static_cast<int>(range.begin > base ? range.begin - base : 0);
    const int last =
        static_cast<int>(range.end - base < shape.pixels() ? range.end - base : shape.pixels());
    double* out = args.partial +
                  ptrdiff_t{n * args.cut.parts + slot % args.cut.parts} * kPlanes * channels + c0;
    const ptrdiff_t image = n * shape.image_stride() + channel_offset(shape, c0);
    for (int p = first; p < last; p += kMaxTileRows) {
      const int count = last - p < kMaxTileRows ? last - p : kMaxTileRows;
      float sums[kPlanes * kWideBlock];
      const Pixels pixels{n, image + p * shape.block, shape.block, count, kAhead, shape.block};
      sum_pixels<F, kSlopes>(args, pixels, c0, width, sums);
      for (int plane = 0; plane < kPlanes; ++plane) {
        double* to = out + plane * channels;
        for (int c = 0; c < width; ++c) {
          const double sum = sums[plane * kWideBlock + c];
          to[c] = p > first ? to[c] + sum : sum;
        }
      }
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
