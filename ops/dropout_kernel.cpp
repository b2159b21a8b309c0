// Dropout at one ISA level: see ops/simd.h.

#include "ops/dropout.h"

#include "ops/simd.h"

namespace mbconv::ops::MBCONV_LEVEL {

DropoutItem dropout;

void dropout(const float* x, const float* mask, float scale, int count, float* y) {
  for (int i = 0; i < count; i += kWidth) store(y + i, load(x + i) * load(mask + i) * V(scale));
}

}  // namespace mbconv::ops::MBCONV_LEVEL
