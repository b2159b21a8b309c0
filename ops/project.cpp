#include "ops/project.h"

#include <algorithm>

#include "lib/compiled_levels.h"
#include "lib/error.h"

namespace mbconv::ops {

namespace generic {
ProjectBackwardItem project_backward, project_finish_dy;
ProjectSumsItem project_gate_gradient, project_sum_images;
}  // namespace generic
namespace avx2 {
ProjectBackwardItem project_backward, project_finish_dy;
ProjectSumsItem project_gate_gradient, project_sum_images;
}  // namespace avx2
namespace avx512 {
ProjectBackwardItem project_backward, project_finish_dy;
ProjectSumsItem project_gate_gradient, project_sum_images;
}  // namespace avx512

namespace {

constexpr auto kBackward = compiled<Variant<ProjectBackwardItem>>({
    {Isa::avx512, "avx512_9x48", avx512::project_backward},
    {Isa::avx2, "avx2_6x16", avx2::project_backward},
    {Isa::generic, "generic", generic::project_backward},
});
constexpr auto kFinishDy = compiled<Variant<ProjectBackwardItem>>({
    {Isa::avx512, "avx512", avx512::project_finish_dy},
    {Isa::avx2, "avx2", avx2::project_finish_dy},
    {Isa::generic, "generic", generic::project_finish_dy},
});
constexpr auto kGateGradient = compiled<Variant<ProjectSumsItem>>({
    {Isa::avx512, "avx512", avx512::project_gate_gradient},
    {Isa::avx2, "avx2", avx2::project_gate_gradient},
    {Isa::generic, "generic", generic::project_gate_gradient},
});
constexpr auto kSumImages = compiled<Variant<ProjectSumsItem>>({
    {Isa::avx512, "avx512", avx512::project_sum_images},
    {Isa::avx2, "avx2", avx2::project_sum_images},
    {Isa::generic, "generic", generic::project_sum_images},
});

// Partial filter gradients of a pass may take about this many floats, up to twice as many where
// images are cut into parts.
constexpr int64_t kMaxSlotFloats = int64_t{5} << 20;

}  // namespace

std::span<const Variant<ProjectBackwardItem>> project_finish_dy_variants() {
  return kFinishDy;
}
std::span<const Variant<ProjectBackwardItem>> project_backward_variants() {
  return kBackward;
}
std::span<const Variant<ProjectSumsItem>> project_gate_gradient_variants() {
  return kGateGradient;
}
std::span<const Variant<ProjectSumsItem>> project_sum_images_variants() {
  return kSumImages;
}

ProjectForwardCut project_forward_cut(const Shape& x, int cout) {
  ProjectForwardCut cut;
  // Squeeze-excite reads its weights once for each group of images, the product for 16 rows at
  // least.
  constexpr int kMinRows = 16;
  const int64_t most = std::max<int64_t>(1, x.rows() / kMinRows);
  const int64_t items = std::min(wanted_items(x.rows() * x.c * cout), most);
  // A third of a tile, or of an image of the last stage.
  const int part = std::clamp(x.pixels() / 3, kMinRows, kTileRows / 3);
  cut.product = cut_rows(x.n, x.pixels(), items, part).with_step(x.pixels());
  cut.pool = cut.product;
  cut.pool.step = 1;
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
  constexpr int kMinSlotRows = 196;  // four images of the last stage of 224 pixels
  const int64_t most = std::max<int64_t>(
      1, std::min(x.rows() / kMinSlotRows, kMaxSlotFloats / (int64_t{x.c} * cout)));
  const RowCut rows = cut_rows(x.n, x.pixels(), std::min(items, most), kTileRows / 2);
  const int panels = ceil_div(x.padded_c(), kWideBlock);
  // The fewest groups of at most so many panels: the largest group is what all wait for.
  const int64_t of_group = std::clamp<int64_t>(panels * rows.items() / items, 1, panels);
  return {rows, ceil_div(panels, static_cast<int>(of_group))};
}

double largest_share(const ProjectBackwardCut& cut, const Shape& x) {
  const int panels = ceil_div(x.padded_c(), kWideBlock);
  return largest_share(cut.rows, x.n, x.pixels()) * ceil_div(panels, cut.channel_groups) / panels;
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
  require(args.cut.step == 1, "project: backward, parts must be of equal size");
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
  const auto gate_gradient = pick(project_gate_gradient_variants(), context.isa).function;
  const auto sum_images = pick(project_sum_images_variants(), context.isa).function;
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
        for (int n = first; n < first + count; ++n) gate_gradient(args, n);
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
