#include "ops/stem.h"

#include <algorithm>

#include "lib/compiled_levels.h"
#include "lib/error.h"
#include "ops/conv1x1.h"
#include "ops/padding.h"

namespace mbconv::ops {

namespace generic {
StemForwardItem stem_forward;
StemBackwardItem stem_backward;
}  // namespace generic
namespace avx2 {
StemForwardItem stem_forward;
StemBackwardItem stem_backward;
}  // namespace avx2
namespace avx512 {
StemForwardItem stem_forward;
StemBackwardItem stem_backward;
}  // namespace avx512

namespace {

constexpr auto kForward = compiled<Variant<StemForwardItem>>({
    {Isa::avx512, "avx512_9x48", avx512::stem_forward},
    {Isa::avx2, "avx2_6x16", avx2::stem_forward},
    {Isa::generic, "generic", generic::stem_forward},
});
constexpr auto kBackward = compiled<Variant<StemBackwardItem>>({
    {Isa::avx512, "avx512_9x48", avx512::stem_backward},
    {Isa::avx2, "avx2_6x16", avx2::stem_backward},
    {Isa::generic, "generic", generic::stem_backward},
});

void check(int h, int w, const Shape& y, int depth, int channels) {
  require(y == stem_output(y.n, h, w, y.c), "stem: y is [", y.n, ",", y.h, ",", y.w, ",", y.c,
          "], which does not fit pictures of ", h, " x ", w);
  require(depth == kStemDepth && channels == y.c, "stem: the filter is [", depth, ",", channels,
          "], expected [", kStemDepth, ",", y.c, "]");
}

}  // namespace

std::span<const Variant<StemForwardItem>> stem_forward_variants() {
  return kForward;
}
std::span<const Variant<StemBackwardItem>> stem_backward_variants() {
  return kBackward;
}

Shape stem_output(int n, int h, int w, int channels) {
  return Shape::nhwc(n, same_padding(h, 3, 2).outputs, same_padding(w, 3, 2).outputs, channels);
}

RowCut stem_cut(const Shape& y) {
  return cut_rows(y.n, y.pixels(), wanted_items(y.rows() * y.c * kStemDepth), kTileRows / 2);
}

size_t stem_scratch(const Shape& y) {
  const int depth = round_up(kStemDepth, kLane);
  const int forward = kTileRows * (depth + kWideBlock) + 2 * y.padded_c();
  const int backward = kTileRows * (2 * depth + kWideBlock);
  return static_cast<size_t>(std::max(forward, backward));
}

void stem_forward(const Context& context, const StemForward& args) {
  check(args.h, args.w, args.y.shape, args.filter.k, args.filter.n);
  require(!args.finish || !args.sums, "stem: sums are of a raw y, not of a finished one");
  require(!args.finish.skip, "stem: nothing skips it");
  const auto item = pick(stem_forward_variants(), context.isa).function;
  context.workers->run(args.cut.items(), [&](int slot, int worker) {
    item(args, slot, context.worker_scratch(worker));
  });
}

void stem_backward(const Context& context, const StemBackward& args) {
  check(args.h, args.w, args.dy.shape(), args.dfilter.k, args.dfilter.n);
  const auto item = pick(stem_backward_variants(), context.isa).function;
  context.workers->run(args.cut.items(), [&](int slot, int worker) {
    item(args, slot, context.worker_scratch(worker));
  });
  if (args.cut.items() > 1) {
    add_slots(*context.workers, args.slots, args.cut.items(), args.dfilter.size(),
              args.dfilter.data);
  }
}

}  // namespace mbconv::ops
