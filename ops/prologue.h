#pragma once

// Prologues of the tile loops, per ISA level (see ops/simd.h): what is pending on a tensor is done
// here, to a tile in scratch memory, and nowhere else.

#include "ops/deferred.h"
#include "ops/tile_rows.h"
#include "ops/vmath.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

inline const float* at(const float* vector, ptrdiff_t offset) {
  return vector != nullptr ? vector + offset : nullptr;
}

inline V load_or(const float* vector, int c, float otherwise) {
  return vector != nullptr ? load(vector + c) : V(otherwise);
}
inline Lane load_lane_or(const float* vector, int c, float otherwise) {
  return vector != nullptr ? load_lane(vector + c) : lane_of(otherwise);
}

inline void copy_row(const float* from, int width, float* to) {
  for (int c = 0; c < width; c += kWidth) store(to + c, load(from + c));
}

// The f that is still to be applied.
inline Activation pending_activation(const Deferred& x) {
  return x.scale != nullptr ? x.activation : Activation::linear;
}

// out[pixel][ld] = f(scale * y + shift) * gate + skip, channels [c0, c0 + width) of the tensor.
template <class F, bool kGate, bool kSkip>
inline void finish_pixels(const Deferred& x, const Pixels pixels, int c0, int width, float* out,
                          ptrdiff_t ld) {
  const float* y = x.y.data + pixels.offset;
  const float* skip = at(x.skip.data, pixels.offset);
  const float *scale = at(x.scale, c0), *shift = at(x.shift, c0);
  const float* gate = at(x.gate, ptrdiff_t{pixels.n} * x.y.shape.padded_c() + c0);
  for_each_run(pixels.count, width, [&](int p0, int p1, int c) {
    const Lane s = load_lane_or(scale, c, 1.0f), b = load_lane_or(shift, c, 0.0f);
    const Lane g = load_lane_or(gate, c, 1.0f);
    for (int p = p0; p < p1; ++p) {
      const ptrdiff_t from = p * pixels.stride + c;
      float* to = out + p * ld + c;
      prefetch(y + pixels.next(p) + c);
      for_each_vector([&](int v, int i) {
        V value = F::value(madd(s.v[v], load(y + from + i), b.v[v]));
        if constexpr (kGate) value = value * g.v[v];
        if constexpr (kSkip) value = value + load(skip + from + i);
        store(to + i, value);
      });
    }
  });
}

// The same for any Deferred; with `x_out` the values are also written there. Padding lanes are
// zero: f(0) may not be.
inline void load_pixels(const Deferred& x, View<float> x_out, const Pixels& pixels, int c0,
                        int width, float* out, ptrdiff_t ld) {
  with_activation(pending_activation(x), [&](auto f) {
    with_flag(x.gate != nullptr, [&](auto gate) {
      with_flag(static_cast<bool>(x.skip), [&](auto skip) {
        finish_pixels<decltype(f), gate.value, skip.value>(x, pixels, c0, width, out, ld);
      });
    });
  });
  if (!x_out) return;
  const int used = x.y.shape.c - c0;
  for (int p = 0; p < pixels.count; ++p) {
    if (used < width) clear(out + p * ld + used, width - used);
    copy_row(out + p * ld, width, x_out.data + pixels.offset + p * pixels.stride);
  }
}

// Prologue of a Deferred tensor: finished values of channels [c0, c0 + width), which lie in one
// block, of the rows of a tile, to tile[rows][ld]. What is read next lies `ahead` further on.
inline void load_rows(const Deferred& x, View<float> x_out, const TileRows& rows, int c0, int width,
                      ptrdiff_t ahead, float* tile, ptrdiff_t ld) {
  const Shape& shape = x.y.shape;
  if (x.gate == nullptr) {
    load_pixels(x, x_out, tile_pixels(shape, rows, c0, ahead), c0, width, tile, ld);
    return;
  }
  for_each_image(rows, [&](int n, int r0, int r1) {
    load_pixels(x, x_out, tile_pixels(shape, rows, n, r0, r1, c0, ahead), c0, width, tile + r0 * ld,
                ld);
  });
}

// out[pixel][ld] = dy of channels [c0, c0 + width) of the tensor, as DeferredGrad states it, where
// there is a batch norm:
//   dy = (g * (a gate) + a offset) * f' + (d mean - b) - d * y.
// Where the mean is far larger than the deviation, d mean - d * y is small beside both: its error
// is that of rounding d mean, |d mean| 2^-24, as rounding y left one of |d y| 2^-24.
template <class F, bool kG>
inline void finish_grad_pixels(const DeferredGrad& grad, const Pixels pixels, int c0, int width,
                               float* out, ptrdiff_t ld) {
  const ptrdiff_t image = ptrdiff_t{pixels.n} * grad.shape().padded_c() + c0;
  const float *g = at(grad.g.data, pixels.offset), *y = grad.y.data + pixels.offset;
  const float *gates = at(grad.gate, image), *offsets = at(grad.offset, image);
  // One vector at a time: there are not enough registers for the constants of two.
  for_each_run<kWidth>(pixels.count, width, [&](int p0, int p1, int c) {
    const V scale = load(grad.scale + c0 + c), shift = load(grad.shift + c0 + c);
    const V a = load(grad.a + c0 + c), d = load(grad.d + c0 + c);
    const V gate = a * load_or(gates, c, 1.0f), offset = a * load_or(offsets, c, 0.0f);
    const V rest = madd(d, load(grad.mean + c0 + c), V(0.0f) - load(grad.b + c0 + c));
    for (int p = p0; p < p1; ++p) {
      const ptrdiff_t from = p * pixels.stride + c;
      const V value = load(y + from);
      const V slope = F::slope(madd(scale, value, shift));
      prefetch(y + pixels.next(p) + c);
      V a_dz = offset;
      if constexpr (kG) {
        prefetch(g + pixels.next(p) + c);
        a_dz = madd(load(g + from), gate, offset);
      }
      store(out + p * ld + c, madd(a_dz, slope, nmadd(d, value, rest)));
    }
  });
}

// The same of g and y without f that have been asked for: half of the instructions.
inline void finish_linear_grad_pixels(const DeferredGrad& grad, const Pixels pixels, int c0,
                                      int width, float* out, ptrdiff_t ld) {
  const ptrdiff_t image = ptrdiff_t{pixels.n} * grad.shape().padded_c() + c0;
  const float *g = grad.g.data + pixels.offset, *y = grad.y.data + pixels.offset;
  const float *gates = at(grad.gate, image), *offsets = at(grad.offset, image);
  for_each_run(pixels.count, width, [&](int p0, int p1, int c) {
    Lane gate, d, rest;
    for_each_vector([&](int v, int i) {
      const V a = load(grad.a + c0 + c + i);
      d.v[v] = load(grad.d + c0 + c + i);
      gate.v[v] = a * load_or(gates, c + i, 1.0f);
      rest.v[v] = madd(a, load_or(offsets, c + i, 0.0f), V(0.0f) - load(grad.b + c0 + c + i));
      rest.v[v] = madd(d.v[v], load(grad.mean + c0 + c + i), rest.v[v]);
    });
    for (int p = p0; p < p1; ++p) {
      const ptrdiff_t from = p * pixels.stride + c;
      for_each_vector([&](int v, int i) {
        const V base = nmadd(d.v[v], load(y + from + i), rest.v[v]);
        store(out + p * ld + c + i, madd(load(g + from + i), gate.v[v], base));
      });
    }
  });
}

inline void load_grad_pixels(const DeferredGrad& grad, const Pixels& pixels, int c0, int width,
                             float* out, ptrdiff_t ld) {
  if (!grad.y) {
    const float* g = grad.g.data + pixels.offset;
    for (int p = 0; p < pixels.count; ++p) copy_row(g + p * pixels.stride, width, out + p * ld);
    return;
  }
  if (grad.activation == Activation::linear && grad.g && pixels.ahead == 0) {
    finish_linear_grad_pixels(grad, pixels, c0, width, out, ld);
    return;
  }
  with_activation(grad.activation, [&](auto f) {
    if (grad.g) {
      finish_grad_pixels<decltype(f), true>(grad, pixels, c0, width, out, ld);
    } else {
      finish_grad_pixels<decltype(f), false>(grad, pixels, c0, width, out, ld);
    }
  });
}

// Prologue of a DeferredGrad: dy of channels [c0, c0 + width) of the rows of a tile.
inline void load_grad_rows(const DeferredGrad& grad, const TileRows& rows, int c0, int width,
                           ptrdiff_t ahead, float* tile, ptrdiff_t ld) {
  const Shape& shape = grad.shape();
  if (grad.gate == nullptr && grad.offset == nullptr) {
    load_grad_pixels(grad, tile_pixels(shape, rows, c0, ahead), c0, width, tile, ld);
    return;
  }
  for_each_image(rows, [&](int n, int r0, int r1) {
    load_grad_pixels(grad, tile_pixels(shape, rows, n, r0, r1, c0, ahead), c0, width,
                     tile + r0 * ld, ld);
  });
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
