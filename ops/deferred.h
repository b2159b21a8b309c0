#pragma once

#include "lib/tensor.h"
#include "ops/activation.h"

namespace mbconv::ops {

// A tensor on its way between layers: raw data and what is still to be done to it. Whoever reads it
// applies that in its prologue; the finished values
//   x[n,h,w,c] = f(scale[c] * y[n,h,w,c] + shift[c]) * gate[n,c] + skip[n,h,w,c]
// exist only tile by tile. Vectors are of y.shape.padded_c() floats, zero in padding lanes.
struct Deferred {
  View<const float> y = {};      // [N,H,W,C] raw output of a convolution
  const float* scale = nullptr;  // [C] batch norm; both null: y is finished, without f
  const float* shift = nullptr;  // [C]
  Activation activation = Activation::linear;  // f
  const float* gate = nullptr;                 // [N,C] squeeze-excite; null: 1
  View<const float> skip = {};                 // [N,H,W,C], layout of y; empty: 0

  // Whether y holds the finished values.
  MBCONV_INLINE constexpr bool finished() const {
    return scale == nullptr && gate == nullptr && !skip;
  }
};

// What a convolution's epilogue does to its products before it stores them, where batch norm is
// folded into the weights and the bias:
//   y[n,h,w,c] = f(product[n,h,w,c] + bias[c]) + skip[n,h,w,c]
// Such a y is finished: it is read as a Deferred without scale and shift. Where there is no Finish
// (false), y is the raw product.
struct Finish {
  const float* bias = nullptr;                 // [C], zero in padding lanes
  Activation activation = Activation::linear;  // f
  View<const float> skip = {};                 // [N,H,W,C], layout of y; empty: 0
  bool cached = false;                         // y is read again soon: it is stored into the caches

  MBCONV_INLINE explicit operator bool() const { return bias != nullptr; }
};

// The twin of Deferred for gradients: what flows into a batch norm from above, and what is still to
// be done to turn it into the gradient of the raw convolution output y that the batch norm read:
//   dz = (g[n,h,w,c] * gate[n,c] + offset[n,c]) * f'(scale[c] * y + shift[c])
//   dy = a[c] * dz - b[c] - d[c] * (y - mean[c])
// (batch-norm backward, Ioffe & Szegedy 2015 section 3, with the two sums already in b and d).
struct DeferredGrad {
  View<const float> g = {};       // [N,H,W,C]; empty: 0
  const float* gate = nullptr;    // [N,C]; null: 1
  const float* offset = nullptr;  // [N,C]; null: 0
  View<const float> y = {};       // [N,H,W,C], layout of g; empty: no batch norm, dy = g
  const float* scale = nullptr;   // [C]
  const float* shift = nullptr;   // [C]
  Activation activation = Activation::linear;  // f
  const float* mean = nullptr;                 // [C]
  const float* a = nullptr;                    // [C]
  const float* b = nullptr;                    // [C]
  const float* d = nullptr;                    // [C]

  MBCONV_INLINE const Shape& shape() const { return g ? g.shape : y.shape; }
};

// Numbered partial sums of two quantities per channel, [slots][2][channels] in fp64, written by the
// epilogue of the pass that produces a tensor: one slot for each work item, overwritten. Sums are
// fp32 within a tile of at most kMaxTileRows rows, fp64 above.
struct ChannelSums {
  double* data = nullptr;
  int slots = 0;
  int channels = 0;  // padded

  MBCONV_INLINE explicit operator bool() const { return data != nullptr; }
  MBCONV_INLINE double* slot(int i) const { return data + ptrdiff_t{i} * 2 * channels; }
  MBCONV_INLINE static constexpr size_t size(int slots, int channels) {
    return 2 * static_cast<size_t>(slots) * static_cast<size_t>(channels);
  }
};

inline constexpr int kMaxTileRows = 256;

// Where the gradient of a pass's input goes. The input is x = f(scale * y + shift) of the batch
// norm before it, and the epilogue that computes dx turns it at once into the gradient that batch
// norm wants, adding the skip connection's on the way:
//   dz = (dx + skip) * f'(scale * y + shift),  sums of dz and of dz * (y - mean) * invstd.
struct InputGrad {
  View<float> dz = {};           // [N,H,W,C] out
  View<const float> skip = {};   // [N,H,W,C] gradient that by-passed the block; or empty
  View<const float> y = {};      // [N,H,W,C] raw input of the batch norm; empty: there
                                 // is none, dz = dx
  const float* scale = nullptr;  // [C]
  const float* shift = nullptr;  // [C]
  Activation activation = Activation::linear;  // f
  const float* mean = nullptr;                 // [C]
  const float* invstd = nullptr;               // [C]
  ChannelSums sums = {};                       // of dz and dz * xhat

  MBCONV_INLINE explicit operator bool() const { return static_cast<bool>(dz); }
};

}  // namespace mbconv::ops
