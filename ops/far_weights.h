#pragma once

// Weights of a product that come from memory, not from a core's cache. They are asked for while the
// piece before is multiplied (ops/ahead.h).

#include "ops/cut.h"
#include "ops/packed.h"

namespace mbconv::ops {

// Rows [k0, k1) of a column panel: what a product multiplies at once.
struct WeightPiece {
  int panel, k0, k1;
};

// Whether w is worth asking for, in products of `rows` rows of a pass of `pass_rows`: it exceeds
// the second-level cache of a Zen 3, the pass does not read it for many tiles, and a line of it is
// used for so many rows that another one can arrive. (Zen 3, B0 with 49 to 64 rows: expand, project
// and head take 0.89 to 0.94 of their time, the classifier of 64 images 0.86. With 512 rows they
// would take up to 1.1. Not measured with AVX-512.)
MBCONV_INLINE constexpr bool are_far(const Packed<const float>& w, int64_t pass_rows, int rows) {
  constexpr size_t kCachedFloats = (size_t{512} << 10) / sizeof(float);
  return w.size() > kCachedFloats && pass_rows <= 2 * kTileRows && rows >= 16;
}

// What is read after `now` by a thread that works on group after group: the next panel of the
// group, its first one further down, or the beginning of the next group.
MBCONV_INLINE constexpr WeightPiece next_piece(const Packed<const float>& w, const Panels& group,
                                               const WeightPiece& now) {
  WeightPiece next = now;
  if (now.panel + 1 < group.last) {
    next.panel = now.panel + 1;
    return next;
  }
  const bool deeper = now.k1 < w.k;
  next.panel = deeper ? group.first : group.last % w.panels();
  next.k0 = deeper ? now.k1 : 0;
  next.k1 = w.k - next.k0 < kTileDepth ? w.k : next.k0 + kTileDepth;
  return next;
}

}  // namespace mbconv::ops
