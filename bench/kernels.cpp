#include "bench/kernels.h"

#include "lib/compiled_levels.h"
#include "ops/variant.h"

namespace mbconv {

namespace ops {
#define MBCONV_LEVEL_KERNELS(level)                                                         \
  namespace level {                                                                         \
  void gemm_product(int depth, const float* a, Packed<const float> w, float* out);          \
  void gemm_filter(int rows, const float* a, const float* b, Packed<float> dw);             \
  float peak_fma(long iterations);                                                          \
  long peak_fma_flops();                                                                    \
  void copy_stream(const float* from, float* to, long floats);                              \
  constexpr bench::Kernels kKernels = {gemm_product, gemm_filter, peak_fma, peak_fma_flops, \
                                       copy_stream};                                        \
  }
MBCONV_LEVEL_KERNELS(generic)
MBCONV_LEVEL_KERNELS(avx2)
MBCONV_LEVEL_KERNELS(avx512)
#undef MBCONV_LEVEL_KERNELS
}  // namespace ops

namespace bench {
namespace {

constexpr auto kVariants = compiled<ops::Variant<const Kernels>>({
    {Isa::avx512, "avx512", &ops::avx512::kKernels},
    {Isa::avx2, "avx2", &ops::avx2::kKernels},
    {Isa::generic, "generic", &ops::generic::kKernels},
});

}  // namespace

const Kernels& kernels(Isa isa) {
  return *ops::pick(std::span<const ops::Variant<const Kernels>>(kVariants), isa).function;
}

}  // namespace bench
}  // namespace mbconv
