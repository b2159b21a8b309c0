// Loops of the yardsticks at one ISA level: see ops/simd.h.

#include "ops/simd.h"

namespace mbconv::ops::MBCONV_LEVEL {

// 12 independent chains hide the latency of the FMA units.
inline constexpr int kChains = 12;

float peak_fma(long iterations) {
  V acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = V(static_cast<float>(i));
  const V a(0.999f), b(0.001f);
  for (long k = 0; k < iterations; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = madd(acc[i], a, b);
  }
  float lanes[kWidth], sum = 0;
  for (const V& v : acc) {
    store(lanes, v);
    sum += lanes[0];
  }
  return sum;
}

long peak_fma_flops() {
  return 2L * kChains * kWidth;
}

void copy_stream(const float* from, float* to, long floats) {
  for (long i = 0; i < floats; i += 16) {
    for (int v = 0; v < 16; v += kWidth) stream(to + i + v, load(from + i + v));
  }
}

}  // namespace mbconv::ops::MBCONV_LEVEL
