#pragma once

// Sums of channels over many pixels, per ISA level (see ops/simd.h).

#include "ops/tile_rows.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// The fp32 sums of `width` channels, [planes][width], on their way to a slot of sums in fp64,
// [planes][channels]: emptied into it before more than kMaxTileRows values would have been added.
class ColumnSums {
 public:
  ColumnSums() = default;
  // Of a batch norm: two planes.
  ColumnSums(Scratch& memory, const ChannelSums& to, int slot, int c0, int width = kLane) {
    if (to) *this = {memory.take(2 * width), 2, to.slot(slot) + c0, to.channels, width};
  }
  ColumnSums(float* memory, int planes, double* slot, int channels, int width = kLane)
      : sums_(memory), slot_(slot), planes_(planes), width_(width), channels_(channels) {
    clear(sums_, planes * width);
    for (int plane = 0; plane < planes; ++plane) clear(slot_ + plane * channels, width);
  }
  // Where to add `values` values per channel; null without sums.
  float* reserve(int values) {
    if (sums_ == nullptr) return nullptr;
    if (pending_ + values > kMaxTileRows) flush();
    pending_ += values;
    return sums_;
  }
  void flush() {
    for (int plane = 0; plane < planes_; ++plane) {
      for (int c = 0; c < width_; ++c) slot_[plane * channels_ + c] += sums_[plane * width_ + c];
    }
    clear(sums_, planes_ * width_);
    pending_ = 0;
  }

 private:
  float* sums_ = nullptr;
  double* slot_ = nullptr;
  int planes_ = 0, width_ = 0;
  ptrdiff_t channels_ = 0;
  int pending_ = 0;
};

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
