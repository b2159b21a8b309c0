#include "ops/squeeze_excite.h"

#include <algorithm>

#include "lib/compiled_levels.h"
#include "lib/tensor.h"

namespace mbconv::ops {

namespace generic {
SqueezeExciteReduce squeeze_excite_reduce;
SqueezeExciteGate squeeze_excite_gate;
SqueezeExciteBackwardInput squeeze_excite_backward_input;
SqueezeExciteBackwardFilter squeeze_excite_backward_filter;
}  // namespace generic
namespace avx2 {
SqueezeExciteReduce squeeze_excite_reduce;
SqueezeExciteGate squeeze_excite_gate;
SqueezeExciteBackwardInput squeeze_excite_backward_input;
SqueezeExciteBackwardFilter squeeze_excite_backward_filter;
}  // namespace avx2
namespace avx512 {
SqueezeExciteReduce squeeze_excite_reduce;
SqueezeExciteGate squeeze_excite_gate;
SqueezeExciteBackwardInput squeeze_excite_backward_input;
SqueezeExciteBackwardFilter squeeze_excite_backward_filter;
}  // namespace avx512

namespace {

constexpr auto kReduce = compiled<Variant<SqueezeExciteReduce>>({
    {Isa::avx512, "avx512_c16", avx512::squeeze_excite_reduce},
    {Isa::avx2, "avx2_c8", avx2::squeeze_excite_reduce},
    {Isa::generic, "generic", generic::squeeze_excite_reduce},
});
constexpr auto kGate = compiled<Variant<SqueezeExciteGate>>({
    {Isa::avx512, "avx512_c16", avx512::squeeze_excite_gate},
    {Isa::avx2, "avx2_c8", avx2::squeeze_excite_gate},
    {Isa::generic, "generic", generic::squeeze_excite_gate},
});
constexpr auto kBackwardInput = compiled<Variant<SqueezeExciteBackwardInput>>({
    {Isa::avx512, "avx512_c16", avx512::squeeze_excite_backward_input},
    {Isa::avx2, "avx2_c8", avx2::squeeze_excite_backward_input},
    {Isa::generic, "generic", generic::squeeze_excite_backward_input},
});
constexpr auto kBackwardFilter = compiled<Variant<SqueezeExciteBackwardFilter>>({
    {Isa::avx512, "avx512_9x48", avx512::squeeze_excite_backward_filter},
    {Isa::avx2, "avx2_6x16", avx2::squeeze_excite_backward_filter},
    {Isa::generic, "generic", generic::squeeze_excite_backward_filter},
});

// Multiply-adds of one image worth an item: few, as the weights often come from memory.
constexpr int64_t kItemMacs = 1 << 14;

}  // namespace

std::span<const Variant<SqueezeExciteReduce>> squeeze_excite_reduce_variants() {
  return kReduce;
}
std::span<const Variant<SqueezeExciteGate>> squeeze_excite_gate_variants() {
  return kGate;
}
std::span<const Variant<SqueezeExciteBackwardInput>> squeeze_excite_backward_input_variants() {
  return kBackwardInput;
}
std::span<const Variant<SqueezeExciteBackwardFilter>> squeeze_excite_backward_filter_variants() {
  return kBackwardFilter;
}

void squeeze_excite_forward(const Context& context, const SqueezeExcite& args, int images) {
  const auto reduce = pick(squeeze_excite_reduce_variants(), context.isa).function;
  const auto gate = pick(squeeze_excite_gate_variants(), context.isa).function;
  const int groups = ceil_div(images, kSqueezeExciteImages);
  const int64_t macs = int64_t{args.reduced} * args.channels;
  const int wanted = static_cast<int>(std::max<int64_t>(1, macs / kItemMacs));
  const int rows = std::min(wanted, args.reduced);
  const int units = std::min(wanted, args.padded / kLane);
  const auto first = [](int group) { return group * kSqueezeExciteImages; };
  const auto count = [&](int group) {
    return std::min(kSqueezeExciteImages, images - first(group));
  };
  context.workers->run_staged(
      groups, rows,
      [&](int group, int i, int) {
        reduce(args, first(group), count(group), args.reduced * i / rows,
               args.reduced * (i + 1) / rows);
      },
      [](int, int) {}, units,
      [&](int group, int i, int worker) {
        const int lanes = args.padded / kLane;
        gate(args, first(group), count(group), lanes * i / units * kLane,
             lanes * (i + 1) / units * kLane, context.worker_scratch(worker));
      });
}

void squeeze_excite_group(const Context& context, const SqueezeExcite& args, int first, int count,
                          int worker) {
  pick(squeeze_excite_reduce_variants(), context.isa).function(args, first, count, 0, args.reduced);
  pick(squeeze_excite_gate_variants(), context.isa)
      .function(args, first, count, 0, args.padded, context.worker_scratch(worker));
}

void squeeze_excite_backward_filter(const Context& context, const SqueezeExciteBackward& args) {
  const auto item = pick(squeeze_excite_backward_filter_variants(), context.isa).function;
  context.workers->run(ceil_div(args.forward.padded, kWideBlock),
                       [&](int unit, int) { item(args, unit); });
}

}  // namespace mbconv::ops
