#include "ops/project.h"

#include <algorithm>

#include "lib/compiled_levels.h"
#include "lib/error.h"

namespace mbconv::ops {

namespace generic {
ProjectBackwardItem project_backward, project_finish_dy;
}  // namespace generic
namespace avx2 {
ProjectBackwardItem project_backward, project_finish_dy;
}  // namespace avx2
namespace avx512 {
ProjectBackwardItem project_backward, project_finish_dy;
}  // namespace avx512

namespace {

constexpr auto kBackward = compiled<Variant<ProjectBackwardItem>>({
    {Isa::avx512, "avx512_8x48", avx512::project_backward},
    {Isa::avx2, "avx2_6x16", avx2::project_backward},
    {Isa::generic, "generic", generic::project_backward},
});
constexpr auto kFinishDy = compiled<Variant<ProjectBackwardItem>>({
    {Isa::avx512, "avx512", avx512::project_finish_dy},
    {Isa::avx2, "avx2", avx2::project_finish_dy},
    {Isa::generic, "generic", generic::project_finish_dy},
});

// Partial filter gradients of a pass may take this many floats.
constexpr int64_t kMaxSlotFloats = int64_t{2} << 20;

// Calls body(sums) for the slots [5][kWideBlock] of a panel of channels of image n.
template <class Body>
void for_each_gate_slot(const ProjectBackward& args, int panel, int n, const Body& body) {
  const Shape& shape = args.x.y.shape;
  const GateSlots slots(shape, args.cut);
  const RowCut image{1, args.cut.parts, shape.n};
  for (int part = 0; part < args.cut.parts; ++part) {
    const RowCut::Range rows = image.range(n, part, shape.n, shape.pixels());
    const int filled = ceil_div(static_cast<int>(rows.end - rows.begin), kMaxTileRows);
    for (int i = 0; i < filled; ++i)
      body(args.gate_sums + slots.at(panel, n, part * slots.of_part + i));
  }
}

// P0 of image n to dgate.
void sum_gate_gradient(const ProjectBackward& args, int n) {
  const int channels = args.x.y.shape.padded_c();
  float* dgate = args.dgate + ptrdiff_t{n} * channels;
  for (int c0 = 0; c0 < channels; c0 += kWideBlock) {
    const int width = std::min(kWideBlock, channels - c0);
    double sums[kWideBlock] = {};
    for_each_gate_slot(args, c0 / kWideBlock, n, [&](const float* p0) {
      for (int c = 0; c < width; ++c) sums[c] += p0[c];
    });
    for (int c = 0; c < width; ++c) dgate[c0 + c] = static_cast<float>(sums[c]);
  }
}

// Sums of dz and dz * xhat over the batch, images in order, for a panel of channels.
void sum_images(const ProjectBackward& args, int panel) {
  const Shape& shape = args.x.y.shape;
  const int channels = shape.padded_c(), c0 = panel * kWideBlock;
  const int width = std::min(kWideBlock, channels - c0);
  double dz[kWideBlock] = {}, dz_xhat[kWideBlock] = {};
  for (int n = 0; n < shape.n; ++n) {
    const float* gate = args.x.gate + ptrdiff_t{n} * channels + c0;
    const float* offset = args.se.offset + ptrdiff_t{n} * channels + c0;
    for_each_gate_slot(args, panel, n, [&](const float* p) {
      const float *p1 = p + kWideBlock, *p2 = p1 + kWideBlock, *p3 = p2 + kWideBlock,
                  *p4 = p3 + kWideBlock;
      for (int c = 0; c < width; ++c) {
        const double g = gate[c], o = offset[c];
        dz[c] += g * p1[c] + o * p2[c];
        dz_xhat[c] += g * p3[c] + o * p4[c];
      }
    });
  }
  double* out = args.sums.slot(0) + c0;
  std::copy_n(dz, width, out);
  std::copy_n(dz_xhat, width, out + channels);
}

}  // namespace

std::span<const Variant<ProjectBackwardItem>> project_finish_dy_variants() {
  return kFinishDy;
}
std::span<const Variant<ProjectBackwardItem>> project_backward_variants() {
  return kBackward;
}

ProjectForwardCut project_forward_cut(const Shape& x, int cout) {
  ProjectForwardCut cut;
  // Squeeze-excite reads its weights once for each group of images, the product for 16 rows at
  // least.
  constexpr int kMinRows = 16;
  const int64_t most = std::max<int64_t>(1, x.rows() / kMinRows);
  const int64_t items = std::min(wanted_items(x.rows() * x.c * cout), most);
  // Half a tile, or half an image of the last stage.
  cut.product =
      cut_rows(x.n, x.pixels(), items, std::clamp(x.pixels() / 2, kTileRows / 4, kTileRows / 2));
  cut.pool = cut.product;
  if (cut.pool.images == 1) cut.pool.parts = std::max(1, pool_cut(x).parts);
  return cut;
}

void project_forward(const Context& context, const ProjectForward& args) {
  const Pool& pool = args.pool;
  const RowCut& cut = args.product.cut;
  require(pool.cut.groups == cut.groups && pool.cut.images == cut.images,
          "project: pool and product must be cut into the same image groups");
  require(pool.x.scale && pool.x.shift, "project: x must come from a batch norm");
  const auto pool_item = pick(pool_variants(), context.isa).function;
  const auto product = pick(conv1x1_forward_variants(), context.isa).function;
  const int units = pool.units();
  context.workers->run_staged(
      cut.groups, pool.cut.parts * units,
      [&](int group, int i, int worker) {
        pool_item(pool, group * pool.cut.parts + i / units, i % units,
                  context.worker_scratch(worker));
      },
      [&](int group, int worker) {
        pool_join(pool, group);
        const RowCut::Range range = cut.range(group, 0, pool.x.y.shape.n, 1);
        squeeze_excite_group(context, args.se, range.first_image, range.images, worker);
      },
      cut.parts,
      [&](int group, int part, int worker) {
        product(args.product, group * cut.parts + part, 0, context.worker_scratch(worker));
      });
}

ProjectBackwardCut project_backward_cut(const Shape& x, int cout) {
  // As many slots as memory allows and the items need; the channel panels make up the rest.
  const int64_t items = wanted_items(2 * x.rows() * x.c * cout);
  constexpr int kMinSlotRows = 256;
  const int64_t most = std::max<int64_t>(
      1, std::min(x.rows() / kMinSlotRows, kMaxSlotFloats / (int64_t{x.c} * cout)));
  const RowCut rows = cut_rows(x.n, x.pixels(), std::min(items, most), kTileRows / 2);
  const int panels = ceil_div(x.padded_c(), kWideBlock);
  const int groups = static_cast<int>(std::clamp<int64_t>(items / rows.items(), 1, panels));
  return {rows, groups};
}

size_t project_scratch(const Shape& x, int cout, int reduced) {
  const Shape y = Shape::nhwc(x.n, x.h, x.w, cout);
  const int backward = kTileRows * (y.padded_c() + kWideBlock);
  return std::max({conv1x1_forward_scratch(x, y), static_cast<size_t>(backward),
                   squeeze_excite_scratch(reduced)});
}

void project_backward(const Context& context, const ProjectBackward& args) {
  const Shape& x = args.x.y.shape;
  require(args.x.scale && args.x.shift && args.x.gate,
          "project: x must come from a batch norm and have a gate");
  require(args.g.shape == x, "project: g must have the layout of x");
  require(args.wt.n == x.c && args.wt.k == args.dy.shape().c && args.dw.k == x.c,
          "project: weights do not fit x with ", x.c, " and dy with ", args.dy.shape().c,
          " channels");
  require(args.channel_groups == 1 || args.finished_dy != nullptr,
          "project: several channel groups need memory for finished_dy");
  ProjectBackward pass = args;
  if (args.channel_groups > 1) {
    // Every group would form the whole dy for itself: a tenth of the pass where Cout is 192.
    const auto finish = pick(project_finish_dy_variants(), context.isa).function;
    const Shape& dy = args.dy.shape();
    context.workers->run(static_cast<int>((dy.rows() + kTileRows - 1) / kTileRows),
                         [&](int tile, int) { finish(args, tile, 0, nullptr); });
    pass.dy = {};
    pass.dy.g = {args.finished_dy, dy};
  }
  const auto item = pick(project_backward_variants(), context.isa).function;
  const auto se = pick(squeeze_excite_backward_input_variants(), context.isa).function;
  const RowCut& cut = args.cut;
  context.workers->run_staged(
      cut.groups, cut.parts * args.channel_groups,
      [&](int group, int i, int worker) {
        item(pass, group * cut.parts + i / args.channel_groups, i % args.channel_groups,
             context.worker_scratch(worker));
      },
      [](int, int) {}, ceil_div(cut.images, kSqueezeExciteImages),
      [&](int group, int i, int) {
        const RowCut::Range range = cut.range(group, 0, x.n, 1);
        const int skipped = i * kSqueezeExciteImages;
        const int first = range.first_image + skipped;
        const int count = std::min(range.images - skipped, kSqueezeExciteImages);
        for (int n = first; n < first + count; ++n) sum_gate_gradient(args, n);
        if (count > 0) se(args.se, first, count);
      });
  squeeze_excite_backward_filter(context, args.se);
  context.workers->run(ceil_div(x.padded_c(), kWideBlock),
                       [&](int panel, int) { sum_images(args, panel); });
  if (cut.items() > 1) {
    add_slots(*context.workers, args.dw_slots, cut.items(), args.dw.size(), args.dw.data);
  }
}

}  // namespace mbconv::ops
