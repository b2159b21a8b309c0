#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/context.h"
#include "ops/variant.h"

namespace mbconv::ops {

// SGD with momentum m and weight decay d on a flat array of parameters (recipe `sgd-cosine`: the
// learning rate goes into the momentum buffer, and the decay term d sum(w^2) into the loss):
//   v = m v - lr (g + 2 d w),   w = w + v,   g = 0.

// Parameters [begin, begin + size) of arrays [P], multiples of kLane; `decayed` or not.
struct SgdSegment {
  size_t begin, size;
  bool decayed;
};

struct Sgd {
  float *w, *g, *v;  // [P] the flat arrays; all updated
  float lr, momentum, decay;
  std::span<const SgdSegment> segments;  // pieces of work: at most kSgdPiece floats each
  double*
      squares;  // [segments] out: the sum of w^2, before the update, of decayed segments; else 0
};

inline constexpr size_t kSgdPiece = 16384;

// Cuts a range of parameters into segments and appends them.
void append_segments(size_t begin, size_t size, bool decayed, std::vector<SgdSegment>& segments);

// Updates w, v and g; returns the sum of w^2 over the decayed parameters before the update, for the
// loss. Parallel over segments.
double sgd_update(const Context& context, const Sgd& args);

// The same sum without an update.
double sum_of_squares(const float* w, std::span<const SgdSegment> segments);

// One segment; its sum of squares goes to *squares.
using SgdItem = void(const Sgd& args, const SgdSegment& segment, double* squares);
std::span<const Variant<SgdItem>> sgd_variants();

}  // namespace mbconv::ops
