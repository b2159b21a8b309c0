#pragma once

// Epilogues of the tile loops, per ISA level (see ops/simd.h).

#include "ops/deferred.h"
#include "ops/gemm.h"
#include "ops/prologue.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// Channels [first, last) of the fp32 sums of a tile, [2][channels], and of the slot they belong to.
struct TileSums {
  float* tile;  // null: none
  double* slot;
  int channels, first, last;

  TileSums(Scratch& memory, const ChannelSums& sums, int number, int c0, int c1)
      : tile(sums ? memory.take(2 * sums.channels) : nullptr),
        slot(sums ? sums.slot(number) : nullptr),
        channels(sums.channels),
        first(c0),
        last(c1 < sums.channels ? c1 : sums.channels) {
    if (tile == nullptr) return;
    for (int plane = 0; plane < 2 * channels; plane += channels) {
      clear(tile + plane + first, last - first);
      clear(slot + plane + first, last - first);
    }
  }
  // Adds the sums of the tile to the slot and clears them.
  void flush() const {
    if (tile == nullptr) return;
    for (int plane = 0; plane < 2 * channels; plane += channels) {
      for (int c = plane + first; c < plane + last; ++c) {
        slot[c] += tile[c];
        tile[c] = 0.0f;
      }
    }
  }
};

// Whether a tensor is stored past the caches: where it is too large to stay there until the next
// pass reads it, an ordinary store would only read each line before it overwrites it.
inline bool streams(const Shape& shape) {
  constexpr size_t kCacheBytes = size_t{1} << 22;
  return shape.size() * sizeof(float) > kCacheBytes;
}

// Output policy of gemm_panel: stores a raw convolution output straight from the registers and,
// with `sums`, accumulates (y - pivot) and its square per channel.
template <bool kStream>
struct StoreOutput {
  float* data;
  ptrdiff_t ld;
  const float* pivot;  // [C]
  float* sums;         // [2][channels]; null: none
  int channels;

  template <int MR, int NV>
  void store(int row, int column, const V (&acc)[MR][NV]) const {
    store_accumulators<kStream>(acc, data + row * ld + column, ld);
    if (sums == nullptr) return;
    float *sum = sums + column, *sum_squares = sum + channels;
    const float* shifts = pivot + column;
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) {
      const int c = v * kWidth;
      const V shift = load(shifts + c);
      V first(0.0f), second(0.0f);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        const V value = acc[r][v] - shift;
        first = first + value;
        second = madd(value, value, second);
      }
      ops::MBCONV_LEVEL::store(sum + c, load(sum + c) + first);
      ops::MBCONV_LEVEL::store(sum_squares + c, load(sum_squares + c) + second);
    }
  }
};

// Pixels of a Finish: y = f(product + bias) + skip. Products are [pixel][ld], y may be there;
// channels [c0, c0 + width) of the tensor. The values are also added to sums[width], if not null.
template <class F, bool kSkip, bool kStream>
inline void finish_products(const Finish& finish, const float* products, ptrdiff_t ld,
                            const Pixels pixels, int c0, int width, float* y, float* sums) {
  const float* skip = at(finish.skip.data, pixels.offset);
  float* out = y + pixels.offset;
  for_each_run(pixels.count, width, [&](int p0, int p1, int c) {
    const Lane bias = load_lane(finish.bias + c0 + c);
    Lane sum = load_lane_or(sums, c, 0.0f);
    for (int p = p0; p < p1; ++p) {
      const float* product = products + p * ld + c;
      const ptrdiff_t to = p * pixels.stride + c;
      if constexpr (kSkip) prefetch(skip + pixels.next(p) + c);
      if constexpr (!kStream) prefetch(out + pixels.next(p) + c);
      for_each_vector([&](int v, int i) {
        V value = F::value(load(product + i) + bias.v[v]);
        if constexpr (kSkip) value = value + load(skip + to + i);
        put<kStream>(out + to + i, value);
        sum.v[v] = sum.v[v] + value;
      });
    }
    if (sums != nullptr) store(sums + c, sum);
  });
}

// The same for any Finish. Padding lanes are zero: f(0) may not be.
inline void store_finished(const Finish& finish, const float* products, ptrdiff_t ld,
                           const Pixels& pixels, int c0, int width, View<float> y, float* sums) {
  with_activation(finish.activation, [&](auto f) {
    with_flag(static_cast<bool>(finish.skip), [&](auto skip) {
      with_flag(!finish.cached && streams(y.shape), [&](auto stream) {
        finish_products<decltype(f), decltype(skip)::value, decltype(stream)::value>(
            finish, products, ld, pixels, c0, width, y.data, sums);
      });
    });
  });
  const int used = y.shape.c - c0;
  if (used >= width || keeps_zero(finish.activation)) return;
  for (int p = 0; p < pixels.count; ++p)
    clear(y.data + pixels.offset + p * pixels.stride + used, width - used);
}

// Epilogue of a finished tensor: channels [c0, c0 + width), which lie in one block, of the rows of
// a tile of products[rows][ld].
inline void store_finished_rows(const Finish& finish, const TileRows& rows, const float* products,
                                ptrdiff_t ld, int c0, int width, View<float> y) {
  store_finished(finish, products, ld, tile_pixels(y.shape, rows, c0, kAhead), c0, width, y,
                 nullptr);
}

// Channels [c0, c0 + width) of the rows of a tile, as they are.
template <bool kStream>
inline void store_rows(const float* tile, ptrdiff_t ld, const TileRows& rows, int c0, int width,
                       View<float> y) {
  float* to = y.data + tile_offset(y.shape, rows, c0);
  for (int r = 0; r < rows.count; ++r, to += y.shape.block, tile += ld) {
    for (int c = 0; c < width; c += kWidth) put<kStream>(to + c, load(tile + c));
  }
}

// Pixels of an InputGrad, channels [c0, c0 + width): dz = (dx + skip) * f' and the sums of dz and
// dz * xhat in sums[2][all channels]. dx is [pixel][ld].
template <class F, bool kSkip, bool kStream>
inline void input_grad_pixels(const InputGrad& out, const float* dx, ptrdiff_t ld,
                              const Pixels pixels, int c0, int width, float* sums) {
  const int channels = out.dz.shape.padded_c();
  const float *scales = at(out.scale, c0), *shifts = at(out.shift, c0);
  const float *means = out.mean + c0, *invstds = out.invstd + c0;
  const float* skip = at(out.skip.data, pixels.offset);
  const float* y = out.y.data + pixels.offset;
  float* dz = out.dz.data + pixels.offset;
  for_each_run(pixels.count, width, [&](int p0, int p1, int c) {
    const Lane scale = load_lane_or(scales, c, 1.0f), shift = load_lane_or(shifts, c, 0.0f);
    const Lane mean = load_lane(means + c);
    float *to_sum = sums + c0 + c, *to_xhat = to_sum + channels;
    Lane sum = load_lane(to_sum), sum_centred = lane_of(0.0f);
    for (int p = p0; p < p1; ++p) {
      const ptrdiff_t to = p * pixels.stride + c;
      const float* product = dx + p * ld + c;
      prefetch(y + pixels.next(p) + c);
      if constexpr (kSkip) prefetch(skip + pixels.next(p) + c);
      for_each_vector([&](int v, int i) {
        const V value = load(y + to + i);
        const V slope = F::slope(madd(scale.v[v], value, shift.v[v]));
        V grad = load(product + i);
        if constexpr (kSkip) grad = grad + load(skip + to + i);
        grad = grad * slope;
        put<kStream>(dz + to + i, grad);
        sum.v[v] = sum.v[v] + grad;
        sum_centred.v[v] = madd(grad, value - mean.v[v], sum_centred.v[v]);
      });
    }
    store(to_sum, sum);
    for_each_vector([&](int v, int i) {
      store(to_xhat + i, madd(sum_centred.v[v], load(invstds + c + i), load(to_xhat + i)));
    });
  });
}

// Epilogue of an input gradient: channels [c0, c0 + width) of the rows of a tile dx[rows][ld] of an
// NHWC tensor. `sums`, [2][channels], may be null where there is no batch norm.
inline void store_input_grad(const InputGrad& out, const TileRows& rows, const float* dx,
                             ptrdiff_t ld, int c0, int width, float* sums) {
  const Shape& shape = out.dz.shape;
  if (!out.y) {
    store_rows<false>(dx, ld, rows, c0, width, out.dz);
    return;
  }
  with_activation(out.activation, [&](auto f) {
    with_flag(static_cast<bool>(out.skip), [&](auto skip) {
      with_flag(streams(shape), [&](auto stream) {
        input_grad_pixels<decltype(f), decltype(skip)::value, decltype(stream)::value>(
            out, dx, ld, tile_pixels(shape, rows, c0, kAhead), c0, width, sums);
      });
    });
  });
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
