#pragma once

// The depthwise passes over images so small that they are brought in as a whole, per ISA level (see
// ops/simd.h). In lines of a few pixels most of the time would go into calls and addresses; here
// the products of an image are listed once an item and then summed up for all its images and a
// whole unit of channels: bound by the loads, two an FMA, and by what bringing in takes. Measured
// on 2 threads of a busy Zen 3 (`step_bench --profile`, B0 at 32 pixels, batch 64, g++ 12): 5 x 5
// on maps of 2 x 2 and 4 x 4 reaches 0.22 to 0.26 of the FMA peak, line by line 0.09 to 0.15.

#include "ops/dwconv.h"
#include "ops/dwconv_unit.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

constexpr int kSmallPixels = 64;
static_assert(kSmallPixels <= kTileRows, "dwconv_scratch has memory for so many");

// Where an input pixel meets many taps, lines reach more of them at once.
inline bool is_small(const Shape& x, int ksize, int stride, const DwconvCut& cut) {
  const int most = ksize > 3 * stride ? 16 : kSmallPixels;
  return x.pixels() <= most && cut.lines.parts == 1;
}

// One product of a depthwise convolution: output pixel, input pixel and tap of w.
struct TapProduct {
  int y, x, tap;
};

// All of an image.
struct TapProducts {
  int count = 0;
  TapProduct at[kSmallPixels * kMaxTaps * kMaxTaps];

  TapProducts(const Shape& x, int ksize, int stride) {
    const SamePadding rows = same_padding(x.h, ksize, stride);
    const SamePadding columns = same_padding(x.w, ksize, stride);
    int y = 0;
    for (int top = -rows.before; y < rows.outputs * columns.outputs; top += stride) {
      for (int q = 0, left = -columns.before; q < columns.outputs; ++q, ++y, left += stride) {
        for (int r = top < 0 ? -top : 0; r < ksize && top + r < x.h; ++r) {
          for (int t = left < 0 ? -left : 0; t < ksize && left + t < x.w; ++t)
            at[count++] = {y, (top + r) * x.w + left + t, r * ksize + t};
        }
      }
    }
  }
};

// The products sorted by one of their three sides, to be summed up for each of its elements: where
// the factors on the other two sides lie.
class TapSums {
 public:
  using Side = int TapProduct::*;

  // Elements of the sides of the factors lie `a_pitch` and `b_pitch` floats apart.
  TapSums(const TapProducts& products, Side of, int elements, Side a, int a_pitch, Side b,
          int b_pitch)
      : elements_(elements) {
    for (int i = 0; i < products.count; ++i) ++end_[products.at[i].*of];
    for (int k = 1; k < elements; ++k) end_[k] += end_[k - 1];
    for (int i = products.count; i-- > 0;) {
      const TapProduct& p = products.at[i];
      factors_[--end_[p.*of]] = {p.*a * a_pitch, p.*b * b_pitch};
    }
    for (int k = 0; k + 1 < elements; ++k) end_[k] = end_[k + 1];
    end_[elements - 1] = products.count;
  }

  // to[element][kWideBlock] = the sums, added to what is there with kAdd, channels [0, width).
  template <bool kAdd>
  void sum(const float* a, const float* b, int width, float* to) const {
    int c = 0;
    for (; c + kWideBlock <= width; c += kWideBlock)
      sum_vectors<kWideBlock / kWidth, kAdd>(a + c, b + c, to + c);
    for (; c < width; c += kLane) sum_vectors<kLane / kWidth, kAdd>(a + c, b + c, to + c);
  }

 private:
  // 6 accumulators and a load of 16 registers (AVX2), 3 and one of 32 (AVX-512).
  template <int NV, bool kAdd>
  [[gnu::noinline]] void sum_vectors(const float* a, const float* b, float* to) const {
    int i = 0;
    for (int k = 0; k < elements_; ++k, to += kWideBlock) {
      V acc[NV];
#pragma GCC unroll 6
      for (int v = 0; v < NV; ++v) acc[v] = kAdd ? load(to + v * kWidth) : V(0.0f);
      for (const int end = end_[k]; i < end; ++i) {
        const float *from = a + factors_[i].a, *with = b + factors_[i].b;
#pragma GCC unroll 6
        for (int v = 0; v < NV; ++v)
          acc[v] = madd(load(from + v * kWidth), load(with + v * kWidth), acc[v]);
      }
#pragma GCC unroll 6
      for (int v = 0; v < NV; ++v) store(to + v * kWidth, acc[v]);
    }
  }

  struct Factors {
    int a, b;
  };
  int elements_;
  int end_[kSmallPixels > kMaxTaps* kMaxTaps ? kSmallPixels : kMaxTaps* kMaxTaps] = {};
  Factors factors_[kSmallPixels * kMaxTaps * kMaxTaps];
};

// A unit's filter to scratch memory, [taps][kWideBlock].
inline const float* copy_filter(Scratch& memory, Packed<const float> w, int c0, int width) {
  float* taps = memory.take(ptrdiff_t{w.k} * kWideBlock);
  for (int tap = 0; tap < w.k; ++tap) {
    for (int c = 0; c < width; c += kLane)
      copy_row(filter_tap(w, tap, c0 + c), kLane, taps + tap * kWideBlock + c);
  }
  return taps;
}

// A unit's channels [c0, c0 + width) of image n; the next image is what is read after it.
inline Pixels image_pixels(const Shape& shape, int n, int c0) {
  return {n,
          channel_offset(shape, c0) + n * shape.image_stride(),
          shape.block,
          shape.pixels(),
          shape.image_stride(),
          shape.block};
}
// Scratch memory for them, [pixels][kWideBlock].
inline float* take_image(Scratch& memory, const Shape& shape) {
  return memory.take(ptrdiff_t{shape.pixels()} * kWideBlock);
}
// tile[pixel][kWideBlock] to them.
template <bool kStream>
inline void put_image(const float* tile, const Pixels pixels, int width, float* data) {
  for (int p = 0; p < pixels.count; ++p) {
    float* to = data + pixels.offset + p * pixels.stride;
    for (int c = 0; c < width; c += kWidth) put<kStream>(to + c, load(tile + p * kWideBlock + c));
  }
}

// Epilogue of an image of y, tile[pixel][kWideBlock]: stores it raw and, with `sums`, adds
// (y - pivot) and its square to sums[2][width].
template <bool kStream>
inline void store_small(const float* tile, const Pixels pixels, int width, float* y,
                        const float* pivot, float* sums) {
  put_image<kStream>(tile, pixels, width, y);
  if (sums == nullptr) return;
  for (int c = 0; c < width; c += kWidth) {
    const V shift = load(pivot + c);
    V first(0.0f), second(0.0f);
    for (int p = 0; p < pixels.count; ++p) {
      const V value = load(tile + p * kWideBlock + c) - shift;
      first = first + value;
      second = madd(value, value, second);
    }
    store(sums + c, load(sums + c) + first);
    store(sums + width + c, load(sums + width + c) + second);
  }
}

// Epilogue of an image of an input gradient, dx[pixel][kWideBlock], which is lost:
// dz = (dx + skip) * slope, and its sums (see InputGrad) added to sums[2][width].
template <bool kSkip, bool kStream>
inline void store_small_grad(const InputGrad& out, float* dx, const float* slopes,
                             const Pixels pixels, int c0, int width, float* sums) {
  const float* y = out.y.data + pixels.offset;
  const float* skip = at(out.skip.data, pixels.offset);
  for (int c = 0; c < width; c += kWidth) {
    const V mean = load(out.mean + c0 + c), invstd = load(out.invstd + c0 + c);
    V sum(0.0f), sum_centred(0.0f);
    for (int p = 0; p < pixels.count; ++p) {
      const ptrdiff_t from = p * pixels.stride + c;
      V grad = load(dx + p * kWideBlock + c);
      if constexpr (kSkip) {  // x came finished from another tensor than y
        prefetch(y + pixels.next(p) + c);
        prefetch(skip + pixels.next(p) + c);
        grad = grad + load(skip + from);
      }
      grad = grad * load(slopes + p * kWideBlock + c);
      sum = sum + grad;
      sum_centred = madd(grad, load(y + from) - mean, sum_centred);
      store(dx + p * kWideBlock + c, grad);
    }
    store(sums + c, load(sums + c) + sum);
    store(sums + width + c, madd(sum_centred, invstd, load(sums + width + c)));
  }
  put_image<kStream>(dx, pixels, width, out.dz.data);
}

template <bool kStream>
void small_forward_item(const DwconvForward& args, int slot, int unit, float* scratch) {
  const Shape &in = args.x.y.shape, &out = args.y.shape;
  const int c0 = unit * kWideBlock, width = args.w.width(unit);
  const TapProducts products(in, args.ksize, args.stride);
  const TapSums y_sums(products, &TapProduct::y, out.pixels(), &TapProduct::x, kWideBlock,
                       &TapProduct::tap, kWideBlock);
  Scratch memory(scratch);
  const float* w = copy_filter(memory, args.w, c0, width);
  float* x = take_image(memory, in);
  float* y = take_image(memory, out);
  ColumnSums sums(memory, args.sums, slot, c0, width);
  const RowCut::Range range = args.cut.lines.item(slot, out.n, out.h);
  for (int n = range.first_image; n < range.first_image + range.images; ++n) {
    load_pixels(args.x, args.x_out, image_pixels(in, n, c0), c0, width, x, kWideBlock);
    y_sums.sum<false>(x, w, width, y);
    store_small<kStream>(y, image_pixels(out, n, c0), width, args.y.data, at(args.pivot, c0),
                         sums.reserve(out.pixels()));
  }
  sums.flush();
}

template <bool kStream>
void small_backward_item(const DwconvBackward& args, int slot, int unit, float* scratch) {
  const Shape& in = args.x.y.shape;
  const Shape& out = args.dy.shape();
  const int c0 = unit * kWideBlock, width = args.w.width(unit), taps = args.ksize * args.ksize;
  const TapProducts products(in, args.ksize, args.stride);
  const TapSums dx_sums(products, &TapProduct::x, in.pixels(), &TapProduct::y, kWideBlock,
                        &TapProduct::tap, kWideBlock);
  const TapSums dw_sums(products, &TapProduct::tap, taps, &TapProduct::x, kWideBlock,
                        &TapProduct::y, kWideBlock);
  Scratch memory(scratch);
  const float* w = copy_filter(memory, args.w, c0, width);
  float* x = take_image(memory, in);
  float* slopes = take_image(memory, in);
  float* dx = take_image(memory, in);
  float* dy = take_image(memory, out);
  float* dw = memory.take(ptrdiff_t{taps} * kWideBlock);
  clear(dw, ptrdiff_t{taps} * kWideBlock);
  ColumnSums sums(memory, args.dx.sums, slot, c0, width);
  const RowCut::Range range = args.cut.lines.item(slot, in.n, in.h);
  with_flag(static_cast<bool>(args.dx.skip), [&](auto skip) {
    for (int n = range.first_image; n < range.first_image + range.images; ++n) {
      const Pixels pixels = image_pixels(in, n, c0);
      load_grad_pixels(args.dy, image_pixels(out, n, c0), c0, width, dy, kWideBlock);
      load_values_and_slopes<kWideBlock>(args.x, pixels, c0, width, x, slopes);
      dw_sums.sum<true>(x, dy, width, dw);
      dx_sums.sum<false>(dy, w, width, dx);
      store_small_grad<decltype(skip)::value, kStream>(args.dx, dx, slopes, pixels, c0, width,
                                                       sums.reserve(in.pixels()));
    }
  });
  sums.flush();
  const auto [to, add] = filter_place(args, slot);
  for (int tap = 0; tap < taps; ++tap) {
    for (int c = 0; c < width; c += kWidth) {
      const V sum = load(dw + tap * kWideBlock + c);
      float* place = filter_tap(to, tap, c0 + c);
      store(place, add ? load(place) + sum : sum);
    }
  }
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
