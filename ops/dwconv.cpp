#include "ops/dwconv.h"

#include <algorithm>

#include "lib/compiled_levels.h"
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

constexpr auto kForward = compiled<Variant<DwconvForwardItem>>({
    {Isa::avx512, "avx512_q14_c16", avx512::dwconv_forward},
    {Isa::avx2, "avx2_q7_c8", avx2::dwconv_forward},
    {Isa::generic, "generic", generic::dwconv_forward},
});
constexpr auto kBackward = compiled<Variant<DwconvBackwardItem>>({
    {Isa::avx512, "avx512_q14_c16", avx512::dwconv_backward},
    {Isa::avx2, "avx2_q7_c8", avx2::dwconv_backward},
    {Isa::generic, "generic", generic::dwconv_backward},
});

// Cost of a tap in multiply-adds of a matrix product: about half of the peak is reached.
constexpr int kTapMacs = 2;
// Fewer lines than this would mostly recompute their neighbours' borders.
constexpr int kMinLines = 8;
// The same where lines are expanded, which costs more: with enough images and channel units for a
// few threads, or else.
constexpr int kMinExpandedLines = 28, kMinExpandedLinesOfFew = 14, kFewItems = 16;

DwconvCut cut_lines(int n, int lines, int channels, int64_t macs, int min_lines) {
  DwconvCut cut;
  cut.units = ceil_div(channels, kWideBlock);
  int64_t items = std::max<int64_t>(1, wanted_items(macs) / cut.units);
  // Rather fewer items than more parts of an image, which load their neighbours' borders again.
  if (items > n) items -= items % n;
  cut.lines = cut_rows(n, lines, items, min_lines);
  return cut;
}

// `nhwc`: whether y is, or else as x.
void check(const Shape& x, const Shape& y, bool nhwc, const Packed<const float>& w, int ksize,
           int stride) {
  require(ksize == 3 || ksize == 5, "dwconv: the kernel size must be 3 or 5, got ", ksize);
  require(stride == 1 || stride == 2, "dwconv: the stride must be 1 or 2, got ", stride);
  Shape expected = dwconv_output(x, stride);
  if (nhwc) expected = Shape::nhwc(expected.n, expected.h, expected.w, expected.c);
  require(y == expected, "dwconv: y is [", y.n, ",", y.h, ",", y.w, ",", y.c, "] in blocks of ",
          y.block, ", which does not fit x [", x.n, ",", x.h, ",", x.w, ",", x.c, "] at stride ",
          stride);
  require(w.k == ksize * ksize && w.n == x.c, "dwconv: w is [", w.k, ",", w.n, "], expected [",
          ksize * ksize, ",", x.c, "]");
}

// Slots that no item fills would be added to the statistics all the same.
void check_sums(const ChannelSums& sums, const DwconvCut& cut, const Shape& of) {
  require(!sums || (sums.slots == cut.lines.items() && sums.channels == of.padded_c()),
          "dwconv: sums are [", sums.slots, "][2][", sums.channels, "], expected [",
          cut.lines.items(), "][2][", of.padded_c(), "]");
}

void check_expand(const DwconvForward& args) {
  const DwconvExpand& expand = args.expand;
  const Shape &x = args.x.y.shape, &v = expand.v.shape;
  require(v == Shape::nhwc(x.n, x.h, x.w, v.c) && expand.w.k == v.c && expand.w.n == x.c,
          "dwconv: [", v.n, ",", v.h, ",", v.w, ",", v.c, "] and [", expand.w.k, ",", expand.w.n,
          "] do not expand to [", x.n, ",", x.h, ",", x.w, ",", x.c, "]");
  require(expand.finish && !expand.finish.skip && !args.x_out,
          "dwconv: an expanded x is finished without a skip and not stored");
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

DwconvCut dwconv_forward_cut(const Shape& x, int ksize, int stride, int expand_cin) {
  const Shape y = dwconv_output(x, stride);
  const int64_t macs = y.rows() * x.c * ksize * ksize * kTapMacs +
                       x.rows() * x.c * (kLoadMacs + int64_t{expand_cin});
  const bool few = x.n * ceil_div(x.padded_c(), kWideBlock) < kFewItems;
  const int expanded = few ? kMinExpandedLinesOfFew : kMinExpandedLines;
  return cut_lines(x.n, y.h, x.padded_c(), macs, expand_cin > 0 ? expanded : kMinLines);
}

DwconvCut dwconv_backward_cut(const Shape& x, int ksize, int stride) {
  const Shape y = dwconv_output(x, stride);
  const int64_t macs =
      2 * y.rows() * x.c * ksize * ksize * kTapMacs + (x.rows() + y.rows()) * x.c * kLoadMacs;
  return cut_lines(x.n, x.h, x.padded_c(), macs, kMinLines);
}

size_t dwconv_scratch(const Shape& x, int ksize) {
  // Ring, the line and its derivative and gradient, or small images (ops/dwconv_small.h); two
  // filters, sums.
  const int line = (x.w + 2 * ksize) * kWideBlock;
  const int lines = ksize + std::max(3, dwconv_expand_lines(x));
  const int images = 4 * std::min(x.pixels(), kTileRows) * kWideBlock;
  return static_cast<size_t>(std::max(line * lines, images) + 2 * ksize * ksize * kWideBlock +
                             3 * kWideBlock);
}

void check_dwconv_forward(const DwconvForward& args) {
  check(args.x.y.shape, args.y.shape, static_cast<bool>(args.finish), args.w, args.ksize,
        args.stride);
  check_sums(args.sums, args.cut, args.y.shape);
  if (args.expand) check_expand(args);
  require(!args.finish || !args.sums, "dwconv: sums are of a raw y, not of a finished one");
  require(!args.finish.skip || args.finish.skip.shape == args.y.shape,
          "dwconv: finish.skip must have the layout of y");
  require(args.finish || args.pooled == nullptr, "dwconv: only a finished y is pooled");
  require((args.pooled == nullptr) == (args.pool_partial == nullptr),
          "dwconv: pooled and pool_partial go together");
  require(!args.x_out || args.x_out.shape == args.x.y.shape,
          "dwconv: x_out must have the layout of x");
}

Pool dwconv_pool(const DwconvForward& args) {
  Pool pool{};
  pool.x.y = args.y;
  pool.partial = args.pool_partial;
  pool.mean = args.pooled;
  pool.cut = args.cut.lines;
  return pool;
}

void dwconv_forward(const Context& context, const DwconvForward& args) {
  check_dwconv_forward(args);
  const Pool pool = dwconv_pool(args);
  const auto item = pick(dwconv_forward_variants(), context.isa).function;
  const int units = args.cut.units;
  context.workers->run_staged(
      pool.cut.groups, pool.cut.parts * units,
      [&](int group, int i, int worker) {
        item(args, group * pool.cut.parts + i / units, i % units, context.worker_scratch(worker));
      },
      [&](int group, int) {
        if (pool.mean != nullptr) pool_join(pool, group);
      },
      0, [](int, int, int) {});
}

void dwconv_backward(const Context& context, const DwconvBackward& args) {
  check(args.x.y.shape, args.dy.shape(), false, {args.w.data, args.w.k, args.w.n}, args.ksize,
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
