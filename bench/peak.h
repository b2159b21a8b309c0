#pragma once

#include <cstddef>

#include "lib/isa.h"
#include "lib/parallel.h"

namespace mbconv::bench {

// What the machine can do now, with these threads: the yardsticks of every figure.

// Fused multiply-adds of a level from registers, GFLOP/s of all threads together. Takes about
// `seconds`.
double fma_gflops(Workers& workers, Isa isa, double seconds);

// Copying one half of `memory` to the other with non-temporal stores, GB/s read and written of all
// threads together. `floats` is the size of `memory`, which should exceed the caches by far: what
// fits in them is copied faster. 0 for less than 2 KiB.
double copy_gbps(Workers& workers, Isa isa, float* memory, size_t floats);

}  // namespace mbconv::bench
