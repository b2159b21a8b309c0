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

// Instructions that a core takes in for one of these threads a cycle, mean of all threads: empty
// ones, against a chain of multiplications of known latency. It tells what other threads of the
// same cores, on a virtual machine those of its neighbours, leave: the multiply-adds of fma_gflops
// need a third of what a core takes in and hardly notice them, kernels do. Takes about a
// millisecond.
double issue_rate(Workers& workers);

}  // namespace mbconv::bench
