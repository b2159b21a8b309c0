#include "ops/conv1x1.h"

#include <algorithm>
#include <cmath>

#include "lib/error.h"

namespace mbconv::ops {

namespace generic {
Conv1x1ForwardItem conv1x1_forward;
Conv1x1BackwardItem conv1x1_backward, conv1x1_backward_join;
}  // namespace generic
namespace avx2 {
Conv1x1ForwardItem conv1x1_forward;
Conv1x1BackwardItem conv1x1_backward, conv1x1_backward_join;
}  // namespace avx2
namespace avx512 {
Conv1x1ForwardItem conv1x1_forward;
Conv1x1BackwardItem conv1x1_backward, conv1x1_backward_join;
}  // namespace avx512

namespace {

constexpr Variant<Conv1x1ForwardItem> kForward[] = {
    {Isa::avx512, "avx512_8x48", avx512::conv1x1_forward},
    {Isa::avx2, "avx2_6x16", avx2::conv1x1_forward},
    {Isa::generic, "generic", generic::conv1x1_forward},
};
constexpr Variant<Conv1x1BackwardItem> kBackward[] = {
    {Isa::avx512, "avx512_8x48", avx512::conv1x1_backward},
    {Isa::avx2, "avx2_6x16", avx2::conv1x1_backward},
    {Isa::generic, "generic", generic::conv1x1_backward},
};
constexpr Variant<Conv1x1BackwardItem> kBackwardJoin[] = {
    {Isa::avx512, "avx512", avx512::conv1x1_backward_join},
    {Isa::avx2, "avx2", avx2::conv1x1_backward_join},
    {Isa::generic, "generic", generic::conv1x1_backward_join},
};

// Partial filter gradients of a pass may take this many floats.
constexpr int64_t kMaxSlotFloats = int64_t{2} << 20;
// Items of fewer rows would mostly read weights.
constexpr int kMinItemRows = 32;
// Slots of fewer rows would mostly write filter gradients, and more channel groups mostly partial
// input gradients, which cost less where there are few rows.
constexpr int kMinSlotRows = 192, kMaxChannelGroups = 3, kMaxChannelGroupsOfOneSlot = 8;

void require_same(const char* what, const Shape& got, const Shape& expected) {
  require(got == expected, "conv1x1: ", what, " is [", got.n, ",", got.h, ",", got.w, ",", got.c,
          "] in blocks of ", got.block, ", expected [", expected.n, ",", expected.h, ",",
          expected.w, ",", expected.c, "] in blocks of ", expected.block);
}

void require_channels(const char* what, int got, int expected) {
  require(got == expected, "conv1x1: ", what, " has ", got, " channels, expected ", expected);
}

// Slots that no item fills would be added to the statistics all the same.
void require_sums(const char* what, const ChannelSums& sums, int items, const Shape& of) {
  require(!sums || (sums.slots == items && sums.channels == of.padded_c()), "conv1x1: ", what,
          " are [", sums.slots, "][2][", sums.channels, "], expected [", items, "][2][",
          of.padded_c(), "]");
}

}  // namespace

std::span<const Variant<Conv1x1ForwardItem>> conv1x1_forward_variants() {
  return kForward;
}
std::span<const Variant<Conv1x1BackwardItem>> conv1x1_backward_variants() {
  return kBackward;
}

RowCut conv1x1_forward_cut(const Shape& x, const Shape& y) {
  const int64_t most = std::max<int64_t>(1, x.rows() / kMinItemRows);
  const int64_t items = std::min(wanted_items(x.rows() * x.c * y.c), most);
  return cut_rows(x.n, x.pixels(), items, kTileRows / 2);
}

int conv1x1_forward_column_groups(const Shape& x, const Shape& y) {
  const int64_t items = wanted_items(x.rows() * x.c * y.c);
  const int panels = ceil_div(y.padded_c(), kWideBlock);
  const int rows = conv1x1_forward_cut(x, y).items();
  return static_cast<int>(std::clamp<int64_t>(items / rows, 1, panels));
}

size_t conv1x1_forward_scratch(const Shape& x, const Shape& y) {
  const int depth = std::min(round_up(x.c, kLane), kTileDepth);
  const int partial = x.c > depth ? kTileRows * y.padded_c() : 0;
  return static_cast<size_t>(kTileRows * (depth + kWideBlock) + 2 * y.padded_c() + partial);
}

void check_conv1x1_forward(const Conv1x1Forward& args) {
  const Shape& x = args.x.y.shape;
  const Shape& y = args.y.shape;
  require_channels("w's input side", args.w.k, x.c);
  require_channels("w's output side", args.w.n, y.c);
  require(x.n == y.n && x.h == y.h && x.w == y.w, "conv1x1: x and y differ in size");
  if (args.x_out) require_same("x_out", args.x_out.shape, x);
  if (args.x.skip) require_same("skip", args.x.skip.shape, x);
  require_sums("sums", args.sums, args.cut.items(), y);
  require(!args.finish || !args.sums, "conv1x1: sums are of a raw y, not of a finished one");
  if (args.finish.skip) require_same("finish.skip", args.finish.skip.shape, y);
  const int groups = args.column_groups;
  require(groups >= 1 && groups <= args.w.panels(), "conv1x1: ", groups,
          " column groups, expected 1 to ", args.w.panels());
}

void conv1x1_forward(const Context& context, const Conv1x1Forward& args) {
  check_conv1x1_forward(args);
  const int groups = args.column_groups;
  const auto item = pick(conv1x1_forward_variants(), context.isa).function;
  context.workers->run(args.cut.items() * groups, [&](int i, int worker) {
    item(args, i / groups, i % groups, context.worker_scratch(worker));
  });
}

Conv1x1BackwardCut conv1x1_backward_cut(const Shape& x, const Shape& dy) {
  const int64_t rows = x.rows();
  const int64_t items = wanted_items(2 * rows * x.c * dy.c);
  const int64_t slots = std::max<int64_t>(
      1, std::min({items, rows / kMinSlotRows, kMaxSlotFloats / (int64_t{x.c} * dy.c)}));
  const RowCut cut = cut_rows(x.n, x.pixels(), slots, kTileRows / 2);
  const int most = cut.items() == 1 ? kMaxChannelGroupsOfOneSlot : kMaxChannelGroups;
  const int64_t groups = std::min<int64_t>(items / cut.items(), most);
  return {cut,
          static_cast<int>(std::clamp<int64_t>(groups, 1, ceil_div(dy.padded_c(), kWideBlock)))};
}

size_t conv1x1_backward_scratch(const Shape& x) {
  return static_cast<size_t>(kTileRows * (2 * x.padded_c() + kWideBlock) + 2 * x.padded_c());
}

void conv1x1_backward(const Context& context, const Conv1x1Backward& args) {
  const Shape& x = args.x.y.shape;
  const Shape& dy = args.dy.shape();
  require_channels("dw's input side", args.dw.k, x.c);
  require_channels("dw's output side", args.dw.n, dy.c);
  require(x.n == dy.n && x.h == dy.h && x.w == dy.w, "conv1x1: x and dy differ in size");
  require(x.blocks() == 1, "conv1x1: x has ", x.blocks(), " channel blocks, expected NHWC");
  require(args.channel_groups >= 1 && args.channel_groups <= args.dw.panels(),
          "conv1x1: ", args.channel_groups, " channel groups, expected 1 to ", args.dw.panels());
  if (args.dx) {
    require(!args.dx.y || args.dx.sums, "conv1x1: dx goes through a batch norm and needs its sums");
    require_sums("dx.sums", args.dx.sums, args.cut.items(), x);
    require_same("dx", args.dx.dz.shape, Shape::nhwc(x.n, x.h, x.w, x.c));
    require_channels("wt's input side", args.wt.k, dy.c);
    require_channels("wt's output side", args.wt.n, x.c);
  }
  const auto item = pick(conv1x1_backward_variants(), context.isa).function;
  const auto join =
      pick(std::span<const Variant<Conv1x1BackwardItem>>(kBackwardJoin), context.isa).function;
  context.workers->run_staged(
      args.cut.items(), args.channel_groups,
      [&](int slot, int group, int worker) {
        item(args, slot, group, context.worker_scratch(worker));
      },
      [&](int slot, int worker) {
        if (args.channel_groups > 1 && args.dx) join(args, slot, 0, context.worker_scratch(worker));
      },
      0, [](int, int, int) {});
  if (args.cut.items() > 1) {
    add_slots(*context.workers, args.dw_slots, args.cut.items(), args.dw.size(), args.dw.data);
  }
}

void add_slots(Workers& workers, const float* slots, int count, size_t size, float* dw) {
  constexpr size_t kChunk = 4096;
  workers.run(static_cast<int>((size + kChunk - 1) / kChunk), [&](int item, int) {
    const size_t begin = static_cast<size_t>(item) * kChunk;
    const size_t end = std::min(size, begin + kChunk);
    for (int s = 0; s < count; ++s) {
      const float* slot = slots + static_cast<size_t>(s) * size;
      for (size_t i = begin; i < end; ++i) dw[i] += slot[i];
    }
  });
}

}  // namespace mbconv::ops
