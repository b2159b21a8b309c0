#include "ops/loss.h"

#include <cmath>

#include "lib/compiled_levels.h"
#include "lib/error.h"

namespace mbconv::ops {

namespace generic {
LossItem loss;
}
namespace avx2 {
LossItem loss;
}
namespace avx512 {
LossItem loss;
}

namespace {

constexpr auto kLoss = compiled<Variant<LossItem>>({
    {Isa::avx512, "avx512_c16", avx512::loss},
    {Isa::avx2, "avx2_c8", avx2::loss},
    {Isa::generic, "generic", generic::loss},
});

}  // namespace

std::span<const Variant<LossItem>> loss_variants() {
  return kLoss;
}

void loss_forward(const Context& context, const Loss& args) {
  const Shape& shape = args.logits.shape;
  for (int n = 0; n < shape.n; ++n) {
    require(args.labels[n] >= 0 && args.labels[n] < shape.c, "loss: label ", args.labels[n],
            " of image ", n, " is outside [0, ", shape.c, ")");
  }
  const auto item = pick(loss_variants(), context.isa).function;
  context.workers->run(shape.n, [&](int n, int worker) {
    float* scratch = context.worker_scratch(worker);
    item(args, n, scratch);
    args.loss[n] += std::log(static_cast<double>(scratch[shape.padded_c()]));
  });
  if (!args.dlogits) return;
  for (int n = 0; n < shape.n; ++n) {
    const float* dz = args.dlogits.pixel(n, 0, 0);
    for (int k = 0; k < shape.c; ++k) args.dbias[k] += dz[k];
  }
}

}  // namespace mbconv::ops
