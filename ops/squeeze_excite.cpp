#include "ops/squeeze_excite.h"

#include "lib/tensor.h"

namespace mbconv::ops {

namespace generic {
SqueezeExciteForward squeeze_excite_forward;
SqueezeExciteBackwardInput squeeze_excite_backward_input;
SqueezeExciteBackwardFilter squeeze_excite_backward_filter;
}  // namespace generic
namespace avx2 {
SqueezeExciteForward squeeze_excite_forward;
SqueezeExciteBackwardInput squeeze_excite_backward_input;
SqueezeExciteBackwardFilter squeeze_excite_backward_filter;
}  // namespace avx2
namespace avx512 {
SqueezeExciteForward squeeze_excite_forward;
SqueezeExciteBackwardInput squeeze_excite_backward_input;
SqueezeExciteBackwardFilter squeeze_excite_backward_filter;
}  // namespace avx512

namespace {

constexpr Variant<SqueezeExciteForward> kForward[] = {
    {Isa::avx512, "avx512_c16", avx512::squeeze_excite_forward},
    {Isa::avx2, "avx2_c8", avx2::squeeze_excite_forward},
    {Isa::generic, "generic", generic::squeeze_excite_forward},
};
constexpr Variant<SqueezeExciteBackwardInput> kBackwardInput[] = {
    {Isa::avx512, "avx512_c16", avx512::squeeze_excite_backward_input},
    {Isa::avx2, "avx2_c8", avx2::squeeze_excite_backward_input},
    {Isa::generic, "generic", generic::squeeze_excite_backward_input},
};
constexpr Variant<SqueezeExciteBackwardFilter> kBackwardFilter[] = {
    {Isa::avx512, "avx512_8x48", avx512::squeeze_excite_backward_filter},
    {Isa::avx2, "avx2_6x16", avx2::squeeze_excite_backward_filter},
    {Isa::generic, "generic", generic::squeeze_excite_backward_filter},
};

}  // namespace

std::span<const Variant<SqueezeExciteForward>> squeeze_excite_forward_variants() {
  return kForward;
}
std::span<const Variant<SqueezeExciteBackwardInput>> squeeze_excite_backward_input_variants() {
  return kBackwardInput;
}
std::span<const Variant<SqueezeExciteBackwardFilter>> squeeze_excite_backward_filter_variants() {
  return kBackwardFilter;
}

void squeeze_excite_backward_filter(const Context& context, const SqueezeExciteBackward& args) {
  const auto item = pick(squeeze_excite_backward_filter_variants(), context.isa).function;
  context.workers->run(ceil_div(args.forward.padded, kWideBlock),
                       [&](int unit, int) { item(args, unit); });
}

}  // namespace mbconv::ops
