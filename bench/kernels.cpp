#include "bench/kernels.h"

#include "lib/compiled_levels.h"

namespace mbconv {

namespace ops {
#define MBCONV_LEVEL_KERNELS(level)                                                            \
  namespace level {                                                                            \
  void gemm_product(int depth, const float* a, Packed<const float> w, float* out);             \
  void gemm_filter(int rows, const float* a, const float* b, Packed<float> dw);                \
  void dwconv_line_forward(int ksize, int stride, int outputs, const float* x, const float* w, \
                           float* y);                                                          \
  void dwconv_line_backward_filter(int ksize, int stride, int pixels, const float* a,          \
                                   const float* dy, float* dw);                                \
  float peak_fma(long iterations);                                                             \
  long peak_fma_flops();                                                                       \
  void copy_stream(const float* from, float* to, long floats);                                 \
  consteval bench::Kernels kernels() {                                                         \
    return {gemm_product, gemm_filter,    dwconv_line_forward, dwconv_line_backward_filter,    \
            peak_fma,     peak_fma_flops, copy_stream};                                        \
  }                                                                                            \
  }
MBCONV_LEVEL_KERNELS(generic)
MBCONV_LEVEL_KERNELS(avx2)
MBCONV_LEVEL_KERNELS(avx512)
#undef MBCONV_LEVEL_KERNELS
}  // namespace ops

namespace bench {
namespace {

struct LevelKernels {
  Isa isa;
  Kernels kernels;
};

constexpr auto kVariants = compiled<LevelKernels>({
    {Isa::avx512, ops::avx512::kernels()},
    {Isa::avx2, ops::avx2::kernels()},
    {Isa::generic, ops::generic::kernels()},
});

}  // namespace

const Kernels& kernels(Isa isa) {
  for (const LevelKernels& variant : kVariants) {
    if (variant.isa <= isa) return variant.kernels;
  }
  return kVariants.back().kernels;
}

}  // namespace bench
}  // namespace mbconv
