#pragma once

// Epilogues of the tile loops, per ISA level (see ops/simd.h).

#include "ops/deferred.h"
#include "ops/gemm.h"
#include "ops/prologue.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// Adds the fp32 sums of a tile, [2][channels], to a slot and clears them.
inline void flush_sums(float* tile_sums, const ChannelSums& sums, int slot) {
  double* out = sums.slot(slot);
  for (int i = 0; i < 2 * sums.channels; ++i) {
    out[i] += tile_sums[i];
    tile_sums[i] = 0.0f;
  }
}

// Output policy of gemm_panel: stores a raw convolution output straight from the registers and,
// with `sums`, accumulates (y - pivot) and its square per channel. `base` and `offset` place row r,
// column c at base[offset[r] + c].
struct StoreOutput {
  float* base;
  const ptrdiff_t* offset;
  const float* pivot;  // [C]
  float* sums;         // [2][channels]; null: none
  int channels;

  template <int MR, int NV>
  void store(int row, int column, const V (&acc)[MR][NV]) const {
    for (int r = 0; r < MR; ++r) {
      for (int v = 0; v < NV; ++v) {
        ops::MBCONV_LEVEL::store(base + offset[row + r] + column + v * kWidth, acc[r][v]);
      }
    }
    if (sums == nullptr) return;
    for (int v = 0; v < NV; ++v) {
      const int c = column + v * kWidth;
      const V shift = load(pivot + c);
      V first(0.0f), second(0.0f);
      for (int r = 0; r < MR; ++r) {
        const V value = acc[r][v] - shift;
        first = first + value;
        second = madd(value, value, second);
      }
      ops::MBCONV_LEVEL::store(sums + c, load(sums + c) + first);
      ops::MBCONV_LEVEL::store(sums + channels + c, load(sums + channels + c) + second);
    }
  }
};

// One row of InputGrad: dz = (dx + skip) * f', with f' given in `derivative` if not null (F is then
// unused), and the sums of dz and dz * xhat. Channels [c0, c0 + width) at the same offset in all
// tensors; `sums` and `sums_xhat` begin at channel c0.
template <class F>
inline void input_grad_row(const InputGrad& out, const float* dx, const float* derivative,
                           ptrdiff_t offset, int c0, int width, float* sums, float* sums_xhat) {
  const float* skip = at(out.skip.data, offset);
  for (int c = 0; c < width; c += kWidth) {
    V dz = load(dx + c);
    if (skip != nullptr) dz = dz + load(skip + c);
    const V y = load(out.y.data + offset + c);
    if (derivative != nullptr) {
      dz = dz * load(derivative + c);
    } else {
      V slope;
      F::value(madd(load(out.scale + c0 + c), y, load(out.shift + c0 + c)), slope);
      dz = dz * slope;
    }
    store(out.dz.data + offset + c, dz);
    const V xhat = (y - load(out.mean + c0 + c)) * load(out.invstd + c0 + c);
    store(sums + c, load(sums + c) + dz);
    store(sums_xhat + c, madd(dz, xhat, load(sums_xhat + c)));
  }
}

// Epilogue of an input gradient: all channels of the rows of a tile dx[rows][ld] of an NHWC tensor.
// `sums`, [2][channels], may be null where there is no batch norm.
inline void store_input_grad(const InputGrad& out, const TileRows& rows, Tile dx, float* sums) {
  const Shape& shape = out.dz.shape;
  if (!out.y) {
    for (int r = 0; r < rows.count; ++r) {
      copy_row(dx.data + r * dx.ld, shape.padded_c(), out.dz.data + row_offset(shape, rows, r));
    }
    return;
  }
  with_activation(out.activation, [&](auto f) {
    for (int r = 0; r < rows.count; ++r) {
      input_grad_row<decltype(f)>(out, dx.data + r * dx.ld, nullptr, row_offset(shape, rows, r), 0,
                                  shape.padded_c(), sums, sums + shape.padded_c());
    }
  });
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
