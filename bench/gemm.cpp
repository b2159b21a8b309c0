#include "bench/gemm.h"

#include <algorithm>

#include "ops/cut.h"

namespace mbconv {

namespace ops {
#define MBCONV_DECLARE(level)                                                      \
  namespace level {                                                                \
  void gemm_product(int depth, const float* a, Packed<const float> w, float* out); \
  void gemm_filter(int rows, const float* a, const float* b, Packed<float> dw);    \
  }
MBCONV_DECLARE(generic)
MBCONV_DECLARE(avx2)
MBCONV_DECLARE(avx512)
#undef MBCONV_DECLARE
}  // namespace ops

namespace bench {
namespace {

struct Kernels {
  // out [96,w.n] = A w, where A's tile [96,depth] stands for each range of depth rows of w.
  void (*product)(int depth, const float* a, ops::Packed<const float> w, float* out);
  // dw += A^T B, where the tiles A [96,rows] and B [96,48] stand for each part of dw.
  void (*filter)(int rows, const float* a, const float* b, ops::Packed<float> dw);
};

Kernels kernels(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return {ops::avx512::gemm_product, ops::avx512::gemm_filter};
    case Isa::avx2:
      return {ops::avx2::gemm_product, ops::avx2::gemm_filter};
    case Isa::generic:
      break;
  }
  return {ops::generic::gemm_product, ops::generic::gemm_filter};
}

double macs(int k, int n) {
  return static_cast<double>(kGemmRepeats) * ops::kTileRows * k * n;
}

Case product(int depth, int k, int n) {
  Case c;
  const ops::Packed<float> w = c.memory.matrix(k, n);
  const ptrdiff_t tile = ptrdiff_t{ops::kTileRows} * round_up(depth, kLane);
  c.run = [=](const ops::Context& context) {
    const Kernels kernel = kernels(context.isa);
    context.workers->run(kGemmRepeats, [&](int, int worker) {
      float* scratch = context.worker_scratch(worker);
      kernel.product(depth, scratch, w, scratch + tile);
    });
  };
  c.scratch = static_cast<size_t>(tile + ptrdiff_t{ops::kTileRows} * w.padded_n());
  c.macs = macs(k, n);
  return c;
}

}  // namespace

Case gemm_forward(const Layer& layer, int) {
  return product(std::min(layer.x.c, ops::kTileDepth), layer.x.c, layer.y.c);
}

Case gemm_backward_input(const Layer& layer, int) {
  const int depth = layer.op == Layer::Op::project ? layer.y.c : kWideBlock;
  return product(depth, layer.y.c, layer.x.c);
}

Case gemm_backward_filter(const Layer& layer, int) {
  Case c;
  const int k = layer.x.c, n = layer.y.c;
  const int rows = layer.op == Layer::Op::project ? kWideBlock : k;
  const ptrdiff_t tile = ptrdiff_t{ops::kTileRows} * round_up(rows, kLane);
  const ptrdiff_t filter =
      static_cast<ptrdiff_t>(ops::Packed<float>{nullptr, k, n}.size());  // of each worker
  c.run = [=](const ops::Context& context) {
    const Kernels kernel = kernels(context.isa);
    context.workers->run(kGemmRepeats, [&](int, int worker) {
      float* dw = context.worker_scratch(worker);
      const float* a = dw + filter;
      kernel.filter(rows, a, a + tile, {dw, k, n});
    });
  };
  c.scratch = static_cast<size_t>(filter + tile + ptrdiff_t{ops::kTileRows} * kWideBlock);
  c.macs = macs(k, n);
  return c;
}

std::string gemm_name(const Layer& layer) {
  return "m" + std::to_string(ops::kTileRows) + "_k" + std::to_string(layer.x.c) + "_n" +
         std::to_string(layer.y.c);
}

}  // namespace bench
}  // namespace mbconv
