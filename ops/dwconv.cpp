#include "ops/dwconv.h"

#include <algorithm>

#include "lib/error.h"
#include "ops/conv1x1.h"
#include "ops/dwconv_ref.h"

namespace mbconv::ops {

namespace generic {
DwconvForwardItem dwconv_forward;
DwconvBackwardItem dwconv_backward;
}  // namespace generic
namespace avx2 {
DwconvForwardItem dwconv_forward;
DwconvBackwardItem dwconv_backward;
}  // namespace avx2
namespace avx512 {
DwconvForwardItem dwconv_forward;
DwconvBackwardItem dwconv_backward;
}  // namespace avx512

namespace {

constexpr Variant<DwconvForwardItem> kForward[] = {
    {Isa::avx512, "avx512_q14_c16", avx512::dwconv_forward},
    {Isa::avx2, "avx2_q7_c8", avx2::dwconv_forward},
    {Isa::generic, "generic", generic::dwconv_forward},
};
constexpr Variant<DwconvBackwardItem> kBackward[] = {
    {Isa::avx512, "avx512_q14_c16", avx512::dwconv_backward},
    {Isa::avx2, "avx2_q7_c8", avx2::dwconv_backward},
    {Isa::generic, "generic", generic::dwconv_backward},
};

// Cost of bringing one input value in, in multiply-adds: the activation's exponential.
constexpr int kLoadMacs = 10;
// Fewer lines than this would mostly recompute their neighbours' borders.
constexpr int kMinLines = 8;

DwconvCut cut_lines(int n, int lines, int channels, int64_t macs) {
  DwconvCut cut;
  cut.units = ceil_div(channels, kWideBlock);
  const int64_t items = std::max<int64_t>(1, wanted_items(macs) / cut.units);
  cut.lines = cut_rows(n, lines, items, kMinLines);
  return cut;
}

void check(const Shape& x, const Shape& y, const Packed<const float>& w, int ksize, int stride) {
  require(ksize == 3 || ksize == 5, "dwconv: the kernel size must be 3 or 5, got ", ksize);
  require(stride == 1 || stride == 2, "dwconv: the stride must be 1 or 2, got ", stride);
  require(y == dwconv_output(x, stride), "dwconv: y is [", y.n, ",", y.h, ",", y.w, ",", y.c,
          "], which does not fit x [", x.n, ",", x.h, ",", x.w, ",", x.c, "] at stride ", stride);
  require(w.k == ksize * ksize && w.n == x.c, "dwconv: w is [", w.k, ",", w.n, "], expected [",
          ksize * ksize, ",", x.c, "]");
}

// Slots that no item fills would be added to the statistics all the same.
void check_sums(const ChannelSums& sums, const DwconvCut& cut, const Shape& of) {
  require(!sums || (sums.slots == cut.lines.items() && sums.channels == of.padded_c()),
          "dwconv: sums are [", sums.slots, "][2][", sums.channels, "], expected [",
          cut.lines.items(), "][2][", of.padded_c(), "]");
}

}  // namespace

std::span<const Variant<DwconvForwardItem>> dwconv_forward_variants() {
  return kForward;
}
std::span<const Variant<DwconvBackwardItem>> dwconv_backward_variants() {
  return kBackward;
}

Shape dwconv_output(const Shape& x, int stride) {
  Shape y = x;
  y.h = ceil_div(x.h, stride);
  y.w = ceil_div(x.w, stride);
  return y;
}

DwconvCut dwconv_forward_cut(const Shape& x, int ksize, int stride) {
  const Shape y = dwconv_output(x, stride);
  const int64_t macs = y.rows() * x.c * ksize * ksize + x.rows() * x.c * kLoadMacs;
  return cut_lines(x.n, y.h, x.padded_c(), macs);
}

DwconvCut dwconv_backward_cut(const Shape& x, int ksize, int stride) {
  const Shape y = dwconv_output(x, stride);
  const int64_t macs = 2 * y.rows() * x.c * ksize * ksize + (x.rows() + y.rows()) * x.c * kLoadMacs;
  return cut_lines(x.n, x.h, x.padded_c(), macs);
}

size_t dwconv_scratch(const Shape& x, int ksize) {
  // Ring, the line and its derivative and gradient, two filters, sums.
  const int line = (x.w + 2 * ksize) * kWideBlock;
  return static_cast<size_t>(line * (ksize + 3) + 2 * ksize * ksize * kWideBlock + 2 * kWideBlock);
}

void dwconv_forward(const Context& context, const DwconvForward& args) {
  check(args.x.y.shape, args.y.shape, args.w, args.ksize, args.stride);
  check_sums(args.sums, args.cut, args.y.shape);
  const auto item = pick(dwconv_forward_variants(), context.isa).function;
  const int units = args.cut.units;
  context.workers->run(args.cut.lines.items() * units, [&](int i, int worker) {
    item(args, i / units, i % units, context.worker_scratch(worker));
  });
}

void dwconv_backward(const Context& context, const DwconvBackward& args) {
  check(args.x.y.shape, args.dy.shape(), {args.w.data, args.w.k, args.w.n}, args.ksize,
        args.stride);
  require(args.dx.y && args.dx.sums, "dwconv: dx must go through a batch norm, with its sums");
  check_sums(args.dx.sums, args.cut, args.x.y.shape);
  const auto item = pick(dwconv_backward_variants(), context.isa).function;
  const int units = args.cut.units;
  context.workers->run(args.cut.lines.items() * units, [&](int i, int worker) {
    item(args, i / units, i % units, context.worker_scratch(worker));
  });
  if (args.cut.lines.items() > 1) {
    add_slots(*context.workers, args.dw_slots, args.cut.lines.items(), args.dw.size(),
              args.dw.data);
  }
}

}  // namespace mbconv::ops
