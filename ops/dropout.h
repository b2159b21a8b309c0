#pragma once

#include <cstdint>
#include <span>

#include "ops/context.h"
#include "ops/variant.h"

namespace mbconv::ops {

// Inverted dropout (Srivastava et al. 2014) of pooled features: y[n,c] = x[n,c] mask[n,c], where a
// mask element is 0 with probability `rate`, else 1 / (1 - rate). Backward: dx = dy mask.

// Draws mask [N,padded C]; zero in padding. A pure function of (seed, step, image).
void draw_dropout_mask(Workers& workers, float rate, uint64_t seed, int64_t step, int n, int c,
                       float* mask);

// y[i] = x[i] mask[i] scale for i < count, a multiple of kLane; either direction.
void apply_dropout(const Context& context, const float* x, const float* mask, float scale,
                   int count, float* y);

using DropoutItem = void(const float* x, const float* mask, float scale, int count, float* y);
std::span<const Variant<DropoutItem>> dropout_variants();

}  // namespace mbconv::ops
