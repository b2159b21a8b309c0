#pragma once

#include <cstddef>
#include <span>

#include "ops/context.h"
#include "ops/cut.h"
#include "ops/deferred.h"
#include "ops/variant.h"

namespace mbconv::ops {

// Global average pool: mean[n,c] = (1 / HW) sum over h, w of x[n,h,w,c], for the squeeze of
// squeeze-excite and for the head. With `slopes` it also collects, in the same sweep, what the
// backward pass of the head's batch norm needs of x = f(z), z = scale y + shift: the sums over the
// pixels of f'(z) and of f'(z) (y - bn_mean) bn_invstd. (There the gradient of x is the same for
// all pixels of an image and channel, so that it can be multiplied in later.)
struct Pool {
  Deferred x;              // [N,H,W,C], without gate and skip; finished only without slopes
  double* partial;         // [N * parts][planes][C] work: sums of x, and the two of `slopes`
  float* mean;             // [N,C] out
  double* slopes;          // [N][2][C] out; or null
  const float* bn_mean;    // [C], used with slopes
  const float* bn_invstd;  // [C]
  RowCut cut;              // of the rows of x

  int planes() const { return slopes != nullptr ? 3 : 1; }
  int units() const { return ceil_div(x.y.shape.padded_c(), kWideBlock); }
};

RowCut pool_cut(const Shape& x);
constexpr size_t pool_partial_size(const Shape& x, const RowCut& cut, bool slopes) {
  return static_cast<size_t>(x.n) *
         static_cast<size_t>(cut.parts * x.padded_c() * (slopes ? 3 : 1));
}
// Overwrites mean and slopes. Parallel over row ranges and channel units.
void pool_forward(const Context& context, const Pool& args);

// One work item: rows of one range, one unit of at most kWideBlock channels; fp32 within a tile of
// rows, fp64 above.
using PoolItem = void(const Pool& args, int slot, int unit, float* scratch);
std::span<const Variant<PoolItem>> pool_variants();
// After the items of an image group: adds the parts of each image in order.
void pool_join(const Pool& args, int group);

}  // namespace mbconv::ops
