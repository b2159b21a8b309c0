#pragma once

// The rows of one tile, per ISA level (see ops/simd.h).

#include "ops/cut.h"
#include "ops/deferred.h"
#include "ops/simd.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

static_assert(kTileRows <= kMaxTileRows);

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
  int64_t begin;
  int count, pixels;
};

// Where channel `c` lies in a tensor of this shape: of its first row, and of the first row of a
// tile.
inline ptrdiff_t channel_offset(const Shape& shape, int c) {
  return (c / shape.block) * shape.block_stride() + c % shape.block;
}
inline ptrdiff_t tile_offset(const Shape& shape, const TileRows& rows, int c) {
  return channel_offset(shape, c) + rows.begin * shape.block;
}

// Pixels of image n, or of any where nothing is given for each image: `count` of them, of a tensor
// at its element `offset`, `stride` floats apart. Memory is asked in time for what will be read
// after them, by this loop or its neighbours, as the prefetchers of CPUs lose a stream at every end
// of a line, panel or page: pixel p asks for what lies `ahead` and p times `ahead_stride` floats
// after `offset`. `ahead` is 0 where a product has asked for it, as asking again takes the places
// of those who wait for memory. Loops take it by value: through a reference, every store of a
// vector might change it.
struct Pixels {
  int n;
  ptrdiff_t offset, stride;
  int count;
  ptrdiff_t ahead, ahead_stride;

  // What pixel p asks for, from `offset` on.
  ptrdiff_t next(int p) const { return ahead + p * ahead_stride; }
  // Those from pixel p0 on, `step` apart; they ask for what they would have asked for anyway.
  Pixels from(int p0, int pixels, int step = 1) const {
    return {n,      offset + p0 * stride,   step * stride,
            pixels, next(p0) - p0 * stride, step * ahead_stride};
  }
};

// How far ahead of a stream memory is read, in floats.
constexpr ptrdiff_t kAhead = 1024;

// Rows [r0, r1) of a tile, all of image n, at channel c.
inline Pixels tile_pixels(const Shape& shape, const TileRows& rows, int n, int r0, int r1, int c,
                          ptrdiff_t ahead) {
  const ptrdiff_t offset = tile_offset(shape, rows, c) + ptrdiff_t{r0} * shape.block;
  return {n, offset, shape.block, r1 - r0, ahead, shape.block};
}
// All of them.
inline Pixels tile_pixels(const Shape& shape, const TileRows& rows, int c, ptrdiff_t ahead) {
  return tile_pixels(shape, rows, 0, 0, rows.count, c, ahead);
}

// From channel c to what is read after it where the blocks [first, last) of a tensor, or panels of
// its only block, are read tile by tile: the next one, or the first one of the next tile.
inline ptrdiff_t next_block(const Shape& shape, const TileRows& rows, int c, int first, int last) {
  if (shape.blocks() == 1 && last - first == 1) return kAhead;
  if (shape.blocks() == 1) {
    const int panel = c / kWideBlock;
    if (panel + 1 < last) return kWideBlock;
    return (first - panel) * kWideBlock + ptrdiff_t{rows.count} * shape.block;
  }
  const int block = c / shape.block;
  if (block + 1 < last) return shape.block_stride();
  return (first - block) * shape.block_stride() + ptrdiff_t{rows.count} * shape.block;
}

// The same for what is asked for by tiles: of a single panel the next tile's.
inline ptrdiff_t next_panel(const Shape& shape, const TileRows& rows, int c, Panels panels) {
  if (panels.last - panels.first == 1) return ptrdiff_t{rows.count} * shape.block;
  return next_block(shape, rows, c, panels.first, panels.last);
}

// Calls body(n, r0, r1) for the rows of each image in a tile.
template <class Body>
inline void for_each_image(const TileRows& rows, const Body& body) {
  int n = static_cast<int>(rows.begin / rows.pixels);
  int r1 = static_cast<int>(ptrdiff_t{n + 1} * rows.pixels - rows.begin);
  for (int r0 = 0; r0 < rows.count; ++n, r0 = r1, r1 += rows.pixels)
    body(n, r0, r1 < rows.count ? r1 : rows.count);
}

// Values of kLane channels, a line of memory: what the loops over pixels work on at a time, so that
// its vectors share the loop's own instructions, and whole lines are stored.
struct Lane {
  V v[kLaneVectors];
};

// Calls body(v, c) for each vector of a lane, which begins at its channel c.
template <class Body>
inline void for_each_vector(const Body& body) {
#pragma GCC unroll 2
  for (int v = 0; v < kLaneVectors; ++v) body(v, v * kWidth);
}

inline Lane load_lane(const float* p) {
  Lane lane;
  for_each_vector([&](int v, int c) { lane.v[v] = load(p + c); });
  return lane;
}
inline Lane lane_of(float x) {
  Lane lane;
  for_each_vector([&](int v, int) { lane.v[v] = V(x); });
  return lane;
}
inline void store(float* p, const Lane& lane) {
  for_each_vector([&](int v, int c) { store(p + c, lane.v[v]); });
}

// Calls body(p0, p1, c) for each kStep channels in [0, width), a multiple of it, of each run of
// pixels in [0, count): runs are long enough to keep the vectors of a channel in registers and
// short enough to read memory nearly in its order.
template <int kStep = kLane, class Body>
inline void for_each_run(int count, int width, const Body& body) {
  constexpr int kRun = 16;
  for (int p0 = 0; p0 < count; p0 += kRun) {
    const int p1 = p0 + kRun < count ? p0 + kRun : count;
    for (int c = 0; c < width; c += kStep) body(p0, p1, c);
  }
}

// Calls body(tile) for the rows [begin, end) in tiles of nearly equal size, at most kTileRows, each
// but the last a multiple of kMR if that is less.
template <class Body>
inline void for_each_tile(int64_t begin, int64_t end, int pixels, const Body& body) {
  const int64_t rows = end - begin;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  if (tiles == 0) return;
  const int even = round_up(static_cast<int>((rows + tiles - 1) / tiles), kMR);
  const int size = even < kTileRows ? even : kTileRows;
  for (int64_t row = begin; row < end; row += size) {
    body(TileRows{row, static_cast<int>(end - row < size ? end - row : size), pixels});
  }
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
