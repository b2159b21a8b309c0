#pragma once

#include <algorithm>
#include <cstdint>

#include "lib/tensor.h"

namespace mbconv::ops {

// How a pass is cut into work items: by shape alone, never by the number of threads, so that
// partial sums and therefore results are the same for any number of threads.

// More items than this per pass would feed no machine better: 4 for each of 128 cores.
inline constexpr int kMaxItems = 512;
// Multiply-adds below which an item is not worth its own task: about 20 us of one core.
inline constexpr int64_t kGrainMacs = 1 << 20;

// Cost of bringing in a value and its activation, in multiply-adds: 12 cycles a vector of AVX2.
inline constexpr int kLoadMacs = 24;

// Rows of a tile of a matrix product: 16 register tiles of AVX2, 11 of AVX-512.
inline constexpr int kTileRows = 96;
// Where parts of images begin, in 1x1 passes and the project pass forward, if they have twice as
// many rows: at multiples of two register tiles of AVX2. A row more than whole tiles takes nearly
// as long as a tile.
inline constexpr int kRowStep = 12;
// Depth of a product done at once; longer ones continue from a tile of partial results.
inline constexpr int kTileDepth = 384;

// Rows of a tensor, [N * H * W], in contiguous ranges: groups of whole images, or parts of an
// image.
struct RowCut {
  int images = 1;  // of a group; the last group may have fewer
  int parts = 1;   // of a group's rows; more than one only where images = 1
  int groups = 1;
  int step = 1;  // parts begin at multiples of so many rows of their group

  MBCONV_INLINE constexpr int items() const { return groups * parts; }

  struct Range {
    int first_image, images;
    int64_t begin, end;  // rows
  };
  // The item of part `part` of group `group` is number group * parts + part.
  MBCONV_INLINE constexpr Range item(int number, int n, int pixels) const {
    return range(number / parts, number % parts, n, pixels);
  }
  // Rows of part `part` of group `group` of a tensor of n images of `pixels` rows each.
  MBCONV_INLINE constexpr Range range(int group, int part, int n, int pixels) const {
    const int first = group * images;
    const int count = images < n - first ? images : n - first;
    const int64_t rows = int64_t{count} * pixels;
    const int64_t start = int64_t{first} * pixels;
    return {first, count, start + part_begin(rows, part), start + part_begin(rows, part + 1)};
  }
  MBCONV_INLINE constexpr int64_t part_begin(int64_t rows, int part) const {
    const int64_t even = rows * part / parts;
    return part < parts ? (even + step / 2) / step * step : rows;
  }
  // In steps of kRowStep where the parts of `rows` rows have two of them at least, so that none is
  // empty.
  constexpr RowCut with_step(int64_t rows) const {
    RowCut cut = *this;
    if (rows / parts >= 2 * kRowStep) cut.step = kRowStep;
    return cut;
  }
};

// About `items` ranges for n images of `pixels` rows, none of them shorter than `min_rows` by
// splitting an image.
constexpr RowCut cut_rows(int n, int pixels, int64_t items, int min_rows) {
  RowCut cut;
  if (items >= n) {
    const int64_t wanted = (items + n - 1) / n;
    cut.parts = static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max(1, pixels / min_rows)));
  } else {
    cut.images = static_cast<int>((n + items - 1) / std::max<int64_t>(items, 1));
  }
  cut.groups = ceil_div(n, cut.images);
  return cut;
}

// Group `group` of `groups` of a matrix's column panels.
struct Panels {
  int first, last;
};
MBCONV_INLINE constexpr Panels group_of(int panels, int group, int groups) {
  return {panels * group / groups, panels * (group + 1) / groups};
}

// The share of all rows that the largest item has.
inline double largest_share(const RowCut& cut, int n, int pixels) {
  int64_t largest = 0;
  for (int i = 0; i < cut.items(); ++i) {
    const RowCut::Range range = cut.item(i, n, pixels);
    largest = std::max(largest, range.end - range.begin);
  }
  return static_cast<double>(largest) / (static_cast<double>(n) * pixels);
}

// The number of items a pass of `macs` multiply-adds should have.
constexpr int64_t wanted_items(int64_t macs) {
  return std::clamp<int64_t>(macs / kGrainMacs, 1, kMaxItems);
}

}  // namespace mbconv::ops
