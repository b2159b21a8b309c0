#pragma once

// What the depthwise passes share, per ISA level (see ops/simd.h).

#include "ops/dwconv_line.h"
#include "ops/epilogue.h"
#include "ops/padding.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// The channels of one unit.
struct Unit {
  int c0, width;
  Unit(const Shape& shape, int unit)
      : c0(unit * kWideBlock),
        width(shape.padded_c() - c0 < kWideBlock ? shape.padded_c() - c0 : kWideBlock) {}
};

// The pixels of line `h` of image `n`, at the first channel of a unit.
inline Pixels line_pixels(const Shape& shape, int n, int h, const Unit& unit) {
  const ptrdiff_t offset = n * shape.image_stride() + channel_offset(shape, unit.c0) +
                           ptrdiff_t{h} * shape.w * shape.block;
  return {n, offset, shape.block, shape.w, kAhead};
}

// Lines of one image in scratch memory, [pixels][width] each, the last `lines` of them, between
// columns of zeros.
class LineRing {
 public:
  LineRing(Scratch& memory, int lines, int pixels, int border, int width)
      : lines_(lines),
        pitch_(ptrdiff_t{pixels + 2 * border} * width),
        origin_(ptrdiff_t{border} * width),
        data_(memory.take(lines * pitch_)) {
    for (int i = 0; i < lines; ++i) {
      clear(data_ + i * pitch_, origin_);
      clear(data_ + (i + 1) * pitch_ - origin_, origin_);
    }
  }
  // First pixel of line `line`; the border's zeros lie on both sides.
  float* line(int line) const { return data_ + (line % lines_) * pitch_ + origin_; }

 private:
  int lines_;
  ptrdiff_t pitch_, origin_;
  float* data_;
};

// Stores outputs of a line and accumulates batch-norm sums (as StoreOutput does).
template <bool kStream>
struct StoreLine {
  float* y;  // first pixel, first channel
  ptrdiff_t pixel_stride;
  const float* pivot;
  float* sums;  // [2][width]; null: none
  int width;

  template <int Q>
  void store(int q0, int c, const V (&acc)[Q]) const {
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) put<kStream>(y + (q0 + q) * pixel_stride + c, acc[q]);
    if (sums == nullptr) return;
    const V shift = load(pivot + c);
    V first(0.0f), second(0.0f);
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
      const V value = acc[q] - shift;
      first = first + value;
      second = madd(value, value, second);
    }
    ops::MBCONV_LEVEL::store(sums + c, load(sums + c) + first);
    ops::MBCONV_LEVEL::store(sums + width + c, load(sums + width + c) + second);
  }
};

// The fp32 sums of a unit, [planes][width], on their way to a slot of sums in fp64,
// [planes][channels]: emptied into it before more than kMaxTileRows values would have been added.
class UnitSums {
 public:
  // Of a batch norm: two planes.
  UnitSums(float* memory, const Unit& unit, const ChannelSums& to, int slot)
      : UnitSums(memory, unit, 2, to ? to.slot(slot) : nullptr, to.channels) {}
  // `slot` may be null: there are no sums.
  UnitSums(float* memory, const Unit& unit, int planes, double* slot, int channels)
      : sums_(memory),
        slot_(slot != nullptr ? slot + unit.c0 : nullptr),
        channels_(channels),
        planes_(planes),
        width_(unit.width) {
    clear(sums_, planes * width_);
    for (int plane = 0; slot_ != nullptr && plane < planes; ++plane)
      clear(slot_ + plane * channels_, width_);
  }

  // Where to add `values` values per channel; null without sums.
  float* reserve(int values) {
    if (slot_ == nullptr) return nullptr;
    if (pending_ + values > kMaxTileRows) flush();
    pending_ += values;
    return sums_;
  }
  void flush() {
    if (slot_ == nullptr) return;
    for (int plane = 0; plane < planes_; ++plane) {
      for (int c = 0; c < width_; ++c) slot_[plane * channels_ + c] += sums_[plane * width_ + c];
    }
    clear(sums_, planes_ * width_);
    pending_ = 0;
  }

 private:
  float* sums_;
  double* slot_;
  ptrdiff_t channels_;
  int planes_, width_;
  int pending_ = 0;
};

// Calls body(first, last) for pieces of [0, pixels) short enough for fp32 sums.
template <class Body>
inline void for_each_piece(int pixels, const Body& body) {
  for (int q = 0; q < pixels; q += kMaxTileRows) {
    body(q, q + kMaxTileRows < pixels ? q + kMaxTileRows : pixels);
  }
}

// Calls body(kernel size, stride, stream) with constants.
template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};
template <class Body>
inline void with_kind(int ksize, int stride, bool stream, const Body& body) {
  with_flag(stream, [&](auto flag) {
    if (ksize == 3) {
      stride == 1 ? body(Constant<3>(), Constant<1>(), flag)
                  : body(Constant<3>(), Constant<2>(), flag);
    } else {
      stride == 1 ? body(Constant<5>(), Constant<1>(), flag)
                  : body(Constant<5>(), Constant<2>(), flag);
    }
  });
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
