#pragma once

// The rows of one tile, per ISA level (see ops/simd.h).

#include "ops/cut.h"
#include "ops/deferred.h"
#include "ops/simd.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

static_assert(kTileRows % kMR == 0 && kTileRows <= kMaxTileRows);

// Carves pieces out of a worker's scratch memory, 64-byte aligned.
class Scratch {
 public:
  explicit Scratch(float* memory) : next_(memory) {}
  float* take(ptrdiff_t count) {
    float* piece = next_;
    next_ += (count + 15) / 16 * 16;
    return piece;
  }

 private:
  float* next_;
};

inline void clear(double* p, ptrdiff_t count) {
  for (ptrdiff_t i = 0; i < count; ++i) p[i] = 0.0;
}
inline void clear(float* p, ptrdiff_t count) {
  for (ptrdiff_t i = 0; i < count; ++i) p[i] = 0.0f;
}

// A run of consecutive rows [begin, begin + count) of tensors of `pixels` rows an image. Row r of a
// tensor is pixel r % pixels of image r / pixels, so a tile may straddle images.
struct TileRows {
  int count;
  int image[kTileRows];
  int pixel[kTileRows];

  TileRows(int64_t begin, int rows, int pixels) : count(rows) {
    int n = static_cast<int>(begin / pixels);
    int p = static_cast<int>(begin % pixels);
    for (int r = 0; r < rows; ++r) {
      image[r] = n;
      pixel[r] = p;
      if (++p == pixels) {
        p = 0;
        ++n;
      }
    }
  }
};

// Where channel `c` of a row lies in a tensor of this shape.
inline ptrdiff_t channel_offset(const Shape& shape, int c) {
  return (c / shape.block) * shape.block_stride() + c % shape.block;
}
inline ptrdiff_t row_offset(const Shape& shape, const TileRows& rows, int r) {
  return rows.image[r] * shape.image_stride() + ptrdiff_t{rows.pixel[r]} * shape.block;
}

// Calls body(tile) for the rows [begin, end) in tiles of nearly equal size, each but the last a
// multiple of the register tile's rows.
template <class Body>
inline void for_each_tile(int64_t begin, int64_t end, int pixels, const Body& body) {
  const int64_t rows = end - begin;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  if (tiles == 0) return;
  const int size = round_up(static_cast<int>((rows + tiles - 1) / tiles), kMR);
  for (int64_t row = begin; row < end; row += size) {
    body(TileRows(row, static_cast<int>(end - row < size ? end - row : size), pixels));
  }
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
