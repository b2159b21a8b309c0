#pragma once

#include "lib/isa.h"
#include "ops/packed.h"

namespace mbconv::bench {

// What the benches measure of a level beside the ops themselves: gemm_kernel.cpp,
// dwconv_lines_kernel.cpp, peak_kernel.cpp.
struct Kernels {
  // out [96,w.n] = A w, where A's tile [96,depth] stands for each range of depth rows of w.
  void (*product)(int depth, const float* a, ops::Packed<const float> w, float* out);
  // dw += A^T B, where the tiles A [96,rows] and B [96,48] stand for each part of dw.
  void (*filter)(int rows, const float* a, const float* b, ops::Packed<float> dw);
  // y [outputs,kLane] = depthwise convolution of lines x [ksize,(outputs - 1) stride + ksize,kLane]
  // with w [ksize,ksize,kLane].
  void (*dwconv_line_forward)(int ksize, int stride, int outputs, const float* x, const float* w,
                              float* y);
  // dw [T,T,kLane] += gradient from a [stride pixels,kLane], every stride-th of it, and lines
  // dy [T,pixels + T - 1,kLane], T = ceil(ksize / stride).
  void (*dwconv_line_backward_filter)(int ksize, int stride, int pixels, const float* a,
                                      const float* dy, float* dw);
  // Fused multiply-adds from registers, and the floating-point operations of an iteration.
  float (*peak_fma)(long iterations);
  long (*peak_fma_flops)();
  // Copies past the caches.
  void (*copy_stream)(const float* from, float* to, long floats);
};

const Kernels& kernels(Isa isa);

}  // namespace mbconv::bench
