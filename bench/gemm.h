#pragma once

#include "bench/case.h"

namespace mbconv::bench {

// The matrix-product micro-kernels of ops/gemm.h alone, on tiles in cache of the sizes that a
// layer's passes give them: no prologue, no epilogue, no tensor in memory.

// Independent repetitions in a call, shared by the threads.
inline constexpr int kGemmRepeats = 8;

// y = x w of a forward pass.
Case gemm_forward(const Layer& layer, int n);
// The input gradient: of a 1x1 convolution dx = dy w^T, of a projection g = dy w^T.
Case gemm_backward_input(const Layer& layer, int n);
// The filter gradient: dw += x^T dy.
Case gemm_backward_filter(const Layer& layer, int n);

// "m96_k16_n96" of the forward product.
std::string gemm_name(const Layer& layer);

}  // namespace mbconv::bench
