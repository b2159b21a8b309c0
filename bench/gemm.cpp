#include "bench/gemm.h"

#include <algorithm>

#include "bench/kernels.h"
#include "ops/cut.h"

namespace mbconv::bench {
namespace {

double macs(int k, int n) {
  return static_cast<double>(kGemmRepeats) * ops::kTileRows * k * n;
}

Case product(int depth, int k, int n) {
  Case c;
  const ops::Packed<float> w = c.memory.matrix(k, n);
  const ptrdiff_t tile = ptrdiff_t{ops::kTileRows} * round_up(depth, kLane);
  c.run = [=](const ops::Context& context) {
    const Kernels& kernel = kernels(context.isa);
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
    const Kernels& kernel = kernels(context.isa);
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

}  // namespace mbconv::bench
