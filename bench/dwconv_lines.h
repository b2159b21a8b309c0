#pragma once

#include "bench/case.h"

namespace mbconv::bench {

// The depthwise micro-kernels of ops/dwconv_line.h alone, on lines in cache as long as a layer's:
// nothing is brought in, no epilogue, no tensor in memory. (Passes over the smallest maps have
// other loops, those of ops/dwconv_small.h.)

// An output line, raw: the kernel of the input gradient as well, which is of stride 1.
Case dwconv_line_forward(const Layer& layer, int n);
// The filter gradient of an input line: of stride 2 that of every other tap from the first on.
Case dwconv_line_backward_filter(const Layer& layer, int n);

// "w28_k5_s1" of the output line.
std::string dwconv_line_name(const Layer& layer);

}  // namespace mbconv::bench
