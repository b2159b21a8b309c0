#include "ops/conv1x1.h"

#include <algorithm>
#include <cmath>

#include "lib/compiled_levels.h"
#include "lib/error.h"

namespace mbconv::ops {

namespace generic {
Conv1x1ForwardItem conv1x1_forward, conv1x1_finish_input;
Conv1x1BackwardItem conv1x1_backward;
}  // namespace generic
namespace avx2 {
Conv1x1ForwardItem conv1x1_forward, conv1x1_finish_input;
Conv1x1BackwardItem conv1x1_backward;
}  // namespace avx2
namespace avx512 {
Conv1x1ForwardItem conv1x1_forward, conv1x1_finish_input;
Conv1x1BackwardItem conv1x1_backward;
}  // namespace avx512

namespace {

constexpr auto kForward = compiled<Variant<Conv1x1ForwardItem>>({
    {Isa::avx512, "avx512_9x48", avx512::conv1x1_forward},
    {Isa::avx2, "avx2_6x16", avx2::conv1x1_forward},
    {Isa::generic, "generic", generic::conv1x1_forward},
});
constexpr auto kFinishInput = compiled<Variant<Conv1x1ForwardItem>>({
    {Isa::avx512, "avx512", avx512::conv1x1_finish_input},
    {Isa::avx2, "avx2", avx2::conv1x1_finish_input},
    {Isa::generic, "generic", generic::conv1x1_finish_input},
});
constexpr auto kBackward = compiled<Variant<Conv1x1BackwardItem>>({
    {Isa::avx512, "avx512_9x48", avx512::conv1x1_backward},
    {Isa::avx2, "avx2_6x16", avx2::conv1x1_backward},
    {Isa::generic, "generic", generic::conv1x1_backward},
});

// Partial filter gradients of a pass may take about this many floats, up to twice as many where
// images are cut into parts.
constexpr int64_t kMaxSlotFloats = int64_t{4} << 20;
// Items of fewer rows would mostly read weights.
constexpr int kMinItemRows = 32;
// Reading a weight from memory takes as long as the multiply-adds of about so many rows.
constexpr int kWeightRows = 16;
// Slots of fewer rows would mostly write filter gradients: in one sweep, and where dw is cut for
// itself, which costs nothing in other slots.
constexpr int kMinSlotRows = 192, kMinFilterRows = 384;
// Rows of dw below which forming dy once more, with the derivative of an activation, takes more
// than a tenth of an item.
constexpr int kMinFilterDepth = 320;
// Rows of an item of dx that is computed for itself: half an image of the last stage.
constexpr int kMinInputRows = 24;

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
std::span<const Variant<Conv1x1ForwardItem>> conv1x1_finish_input_variants() {
  return kFinishInput;
}
std::span<const Variant<Conv1x1BackwardItem>> conv1x1_backward_variants() {
  return kBackward;
}

RowCut conv1x1_forward_cut(const Shape& x, const Shape& y) {
  const int64_t most = std::max<int64_t>(1, x.rows() / kMinItemRows);
  const int64_t items = std::min(wanted_items(x.rows() * x.c * y.c), most);
  return cut_rows(x.n, x.pixels(), items, kTileRows / 2).with_step(x.pixels());
}

int conv1x1_forward_column_groups(const Shape& x, const Shape& y) {
  const int64_t items = wanted_items((x.rows() + kWeightRows) * x.c * y.c);
  const int panels = ceil_div(y.padded_c(), kWideBlock);
  const int rows = conv1x1_forward_cut(x, y).items();
  return static_cast<int>(std::clamp<int64_t>(items / rows, 1, panels));
}

size_t conv1x1_forward_scratch(const Shape& x, const Shape& y, bool gated) {
  const int depth = std::min(round_up(x.c, kLane), kTileDepth);
  const int partial = x.c > depth ? kTileRows * y.padded_c() : 0;
  const Packed<const float> w{nullptr, x.c, y.c};
  return static_cast<size_t>(kTileRows * (depth + kWideBlock) + 2 * y.padded_c() + partial) +
         (gated && gates_weights(x, w) ? w.size() : 0);
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
  Conv1x1Forward pass = args;
  if (groups > 1 && args.x_out && !args.x.finished()) {
    // Every group would finish all of x for itself: a tenth of the pass where Cin is 192.
    const auto finish = pick(conv1x1_finish_input_variants(), context.isa).function;
    context.workers->run(args.cut.items(), [&](int slot, int worker) {
      finish(args, slot, 0, context.worker_scratch(worker));
    });
    pass.x = {};
    pass.x.y = args.x_out;
    pass.x_out = {};
  }
  const auto item = pick(conv1x1_forward_variants(), context.isa).function;
  context.workers->run(args.cut.items() * groups, [&](int i, int worker) {
    item(pass, i / groups, i % groups, context.worker_scratch(worker));
  });
}

Conv1x1BackwardCut conv1x1_backward_cut(const Shape& x, const Shape& dy) {
  const int64_t items = wanted_items(2 * x.rows() * x.c * dy.c);
  const int64_t most_slots = kMaxSlotFloats / (int64_t{x.c} * dy.c);
  const auto cut_for_slots = [&](int64_t wanted, int min_rows) {
    const int64_t most = std::min(x.rows() / min_rows, most_slots);
    return cut_rows(x.n, x.pixels(), std::max<int64_t>(1, std::min(wanted, most)), kTileRows / 2)
        .with_step(x.pixels());
  };
  Conv1x1BackwardCut cut;
  cut.rows = cut_for_slots(items, kMinSlotRows);
  // Where 128 cores have two items each, dy written and read once more would cost more than it
  // gives; where they have one, unless the slots cost nearly as much.
  const int64_t sweeps = cut.rows.items(), slots = sweeps * x.c * dy.c;
  const bool small = 2 * slots < x.rows() * dy.c;
  if (sweeps >= std::min<int64_t>(small ? kMaxItems / 4 : kMaxItems / 2, (items + 1) / 2))
    return cut;
  // Half of the items for either gradient.
  const int64_t most = std::max<int64_t>(1, x.rows() / kMinInputRows);
  cut.rows =
      cut_rows(x.n, x.pixels(), std::min(items / 2, most), kMinInputRows).with_step(x.pixels());
  cut.column_groups = static_cast<int>(
      std::clamp<int64_t>(items / 2 / cut.rows.items(), 1, ceil_div(x.padded_c(), kWideBlock)));
  cut.filter_groups = ceil_div(dy.padded_c(), kWideBlock);
  cut.filter_rows = cut_for_slots(items / 2 / cut.filter_groups, kMinFilterRows);
  cut.filter_depths = static_cast<int>(
      std::clamp<int64_t>(items / 2 / cut.filter_items(), 1, std::max(1, x.c / kMinFilterDepth)));
  return cut;
}

double largest_share(const Conv1x1BackwardCut& cut, const Shape& x, const Shape& dy) {
  const auto share = [&](const RowCut& rows, int panels, int groups) {
    return largest_share(rows, x.n, x.pixels()) * ceil_div(panels, groups) / panels;
  };
  if (cut.one_sweep()) return share(cut.rows, 1, 1);
  const int lanes = x.padded_c() / kLane;
  return std::max(share(cut.rows, ceil_div(x.padded_c(), kWideBlock), cut.column_groups),
                  share(cut.filter_rows, ceil_div(dy.padded_c(), kWideBlock), cut.filter_groups) *
                      ceil_div(lanes, cut.filter_depths) / lanes);
}

size_t conv1x1_backward_scratch(const Shape& x, const Shape& dy) {
  const int both = kTileRows * (2 * x.padded_c() + kWideBlock) + 2 * x.padded_c();
  return std::max(static_cast<size_t>(both), conv1x1_forward_scratch(dy, x));
}

void conv1x1_backward(const Context& context, const Conv1x1Backward& args) {
  const Shape& x = args.x.y.shape;
  const Shape& dy = args.dy.shape();
  require_channels("dw's input side", args.dw.k, x.c);
  require_channels("dw's output side", args.dw.n, dy.c);
  require(x.n == dy.n && x.h == dy.h && x.w == dy.w, "conv1x1: x and dy differ in size");
  require(x.blocks() == 1, "conv1x1: x has ", x.blocks(), " channel blocks, expected NHWC");
  const Conv1x1BackwardCut& cut = args.cut;
  require(cut.filter_groups >= 0 && cut.filter_groups <= args.dw.panels(),
          "conv1x1: ", cut.filter_groups, " groups of dw's columns, expected 0 to ",
          args.dw.panels());
  require(cut.filter_depths >= 1 && cut.filter_depths <= ceil_div(args.dw.k, kLane),
          "conv1x1: ", cut.filter_depths, " ranges of dw's rows, expected 1 to ",
          ceil_div(args.dw.k, kLane));
  const bool finishes = !cut.one_sweep() && args.dy.y;
  require(cut.one_sweep() || args.dx, "conv1x1: without dx, dw is cut for one sweep");
  require(!finishes || (args.finished_dy && args.finished_dy != args.dy.g.data),
          "conv1x1: dx and dw for themselves need memory of its own for a finished dy");
  require(cut.one_sweep() || finishes || dy.blocks() == 1, "conv1x1: dy has ", dy.blocks(),
          " channel blocks, expected NHWC where dx is for itself and dy finished");
  require(cut.slots() == 1 || args.dw_slots, "conv1x1: several slots of dw need memory");
  const auto require_all = [&](const RowCut& rows, const char* what) {
    require(int64_t{rows.groups} * rows.images >= x.n, "conv1x1: ", what, " is cut for ",
            rows.groups * rows.images, " images, expected ", x.n);
  };
  require_all(cut.rows, cut.one_sweep() ? "dw" : "dx");
  if (!cut.one_sweep()) require_all(cut.filter_rows, "dw");
  const int most = cut.one_sweep() ? 1 : ceil_div(x.padded_c(), kWideBlock);
  require(cut.column_groups >= 1 && cut.column_groups <= most, "conv1x1: ", cut.column_groups,
          " groups of dx's columns, expected 1 to ", most);
  if (args.dx) {
    require(!args.dx.y || args.dx.sums, "conv1x1: dx goes through a batch norm and needs its sums");
    require_sums("dx.sums", args.dx.sums, cut.rows.items(), x);
    require_same("dx", args.dx.dz.shape, Shape::nhwc(x.n, x.h, x.w, x.c));
    require_channels("wt's input side", args.wt.k, dy.c);
    require_channels("wt's output side", args.wt.n, x.c);
  }
  const auto item = pick(conv1x1_backward_variants(), context.isa).function;
  const auto run = [&](const Conv1x1Backward& pass, int first, int count) {
    context.workers->run(
        count, [&](int i, int worker) { item(pass, first + i, context.worker_scratch(worker)); });
  };
  const int of_dw = cut.one_sweep() ? cut.input_items() : cut.filter_items();
  run(args, 0, of_dw);
  if (cut.slots() > 1) {
    add_slots(*context.workers, args.dw_slots, cut.slots(), args.dw.size(), args.dw.data);
  }
  if (cut.one_sweep()) return;
  Conv1x1Backward input = args;
  if (finishes) {
    input.dy = {};
    input.dy.g = finished_dy(args);
  }
  run(input, of_dw, cut.input_items());
}

void add_slots(Workers& workers, const float* slots, int count, size_t size, float* dw) {
  constexpr size_t kChunk = 1024;
  constexpr int kAtOnce = 4;  // slots for each time that dw is read and written
  workers.run(static_cast<int>((size + kChunk - 1) / kChunk), [&](int item, int) {
    const size_t begin = static_cast<size_t>(item) * kChunk;
    const size_t floats = std::min(size - begin, kChunk);
    float* to = dw + begin;
    const auto slot = [&](int s) { return slots + static_cast<size_t>(s) * size + begin; };
    int s = 0;
    for (; s + kAtOnce <= count; s += kAtOnce) {
      const float *a = slot(s), *b = slot(s + 1), *c = slot(s + 2), *d = slot(s + 3);
      for (size_t i = 0; i < floats; ++i) to[i] = to[i] + a[i] + b[i] + c[i] + d[i];
    }
    for (; s < count; ++s)
      for (size_t i = 0; i < floats; ++i) to[i] += slot(s)[i];
  });
}

}  // namespace mbconv::ops
