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

// out = f(scale * y + shift) * gate + skip over `width` channels of one row.
template <class F>
inline void finish_row(const float* y, const float* scale, const float* shift, const float* gate,
                       const float* skip, int width, float* out) {
  for (int c = 0; c < width; c += kWidth) {
    V x = load(y + c);
    if (scale != nullptr) x = F::value(madd(load(scale + c), x, load(shift + c)));
    if (gate != nullptr) x = x * load(gate + c);
    if (skip != nullptr) x = x + load(skip + c);
    store(out + c, x);
  }
}

inline void copy_row(const float* from, int width, float* to) {
  for (int c = 0; c < width; c += kWidth) store(to + c, load(from + c));
}

// Stores a finished row, of which `used` channels are no padding: f(0) of a padding lane may not be
// 0.
inline void store_row(float* finished, int used, int width, float* to) {
  if (used < width) clear(finished + used, width - used);
  copy_row(finished, width, to);
}

// Prologue of a Deferred tensor: finished values of channels [c0, c0 + width), which lie in one
// block, of the rows of a tile, to tile[rows][ld]. With `x_out` the values are also written there.
inline void load_rows(const Deferred& x, View<float> x_out, const TileRows& rows, int c0, int width,
                      float* tile, ptrdiff_t ld) {
  const Shape& shape = x.y.shape;
  const ptrdiff_t origin = channel_offset(shape, c0);
  with_activation(x.activation, [&](auto f) {
    for (int r = 0; r < rows.count; ++r) {
      const ptrdiff_t offset = origin + row_offset(shape, rows, r);
      const ptrdiff_t image = ptrdiff_t{rows.image[r]} * shape.padded_c();
      float* out = tile + r * ld;
      finish_row<decltype(f)>(x.y.data + offset, at(x.scale, c0), at(x.shift, c0),
                              at(x.gate, image + c0), at(x.skip.data, offset), width, out);
      if (x_out) store_row(out, shape.c - c0, width, x_out.data + offset);
    }
  });
}

// out = dy over `width` channels of one row, where the pointers are those of DeferredGrad.
template <class F>
inline void finish_grad_row(const float* g, const float* gate, const float* offset, const float* y,
                            const DeferredGrad& grad, int c0, int width, float* out) {
  for (int c = 0; c < width; c += kWidth) {
    V dz = g != nullptr ? load(g + c) : V(0.0f);
    if (gate != nullptr) dz = dz * load(gate + c);
    if (offset != nullptr) dz = dz + load(offset + c);
    if (y != nullptr) {
      const V value = load(y + c);
      V derivative;
      F::value(madd(load(grad.scale + c0 + c), value, load(grad.shift + c0 + c)), derivative);
      dz = dz * derivative;
      const V centred = value - load(grad.mean + c0 + c);
      dz = madd(load(grad.a + c0 + c), dz,
                nmadd(load(grad.d + c0 + c), centred, V(0.0f) - load(grad.b + c0 + c)));
    }
    store(out + c, dz);
  }
}

// Prologue of a DeferredGrad: dy of channels [c0, c0 + width) of the rows of a tile.
inline void load_grad_rows(const DeferredGrad& grad, const TileRows& rows, int c0, int width,
                           float* tile, ptrdiff_t ld) {
  const Shape& shape = grad.shape();
  const ptrdiff_t origin = channel_offset(shape, c0);
  with_activation(grad.activation, [&](auto f) {
    for (int r = 0; r < rows.count; ++r) {
      const ptrdiff_t offset = origin + row_offset(shape, rows, r);
      const ptrdiff_t image = ptrdiff_t{rows.image[r]} * shape.padded_c() + c0;
      finish_grad_row<decltype(f)>(at(grad.g.data, offset), at(grad.gate, image),
                                   at(grad.offset, image), at(grad.y.data, offset), grad, c0, width,
                                   tile + r * ld);
    }
  });
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
