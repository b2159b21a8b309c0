#include "ops/inverted_residual.h"

#include <algorithm>

#include "lib/error.h"
#include "ops/pool.h"

namespace mbconv::ops {
namespace {

// Rows of d that a group has at least: a tile of the product, and enough images for squeeze-excite
// to read its weights less often. Not more than where weights are gated: a group is then an image.
constexpr int kGroupRows = 2 * kTileRows;
static_assert(kGroupRows <= kMinGatedRows);
// Column panels of an item: each group of columns loads its rows or gates its weights anew.
constexpr int kMinPanels = 2;

RowCut of_groups(const RowCut& groups, int64_t items, int rows, int min_rows) {
  RowCut cut = groups;
  if (cut.images > 1) return cut;
  const int64_t wanted = (items + cut.groups - 1) / cut.groups;
  cut.parts = static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max(1, rows / min_rows)));
  return cut.with_step(rows);
}

}  // namespace

Shape inverted_residual_inside(const Shape& x, int stride) {
  const Shape d = dwconv_output(x, stride);
  return Shape::nhwc(d.n, d.h, d.w, d.c);
}

InvertedResidualCut inverted_residual_cut(const Shape& x, int ksize, int stride, int cout,
                                          int expand_cin) {
  const Shape d = inverted_residual_inside(x, stride), y = Shape::nhwc(d.n, d.h, d.w, cout);
  InvertedResidualCut cut;
  cut.depthwise = dwconv_forward_cut(x, ksize, stride, expand_cin);
  RowCut groups;
  groups.images = std::min(ceil_div(kGroupRows, d.pixels()), d.n);
  groups.groups = ceil_div(d.n, groups.images);
  if (groups.groups == 1) {
    cut.product = conv1x1_forward_cut(d, y);
    cut.column_groups = conv1x1_forward_column_groups(d, y);
    return cut;
  }
  cut.staged = true;
  const int parts = cut.depthwise.lines.parts;
  cut.depthwise.lines = groups;
  if (groups.images == 1) cut.depthwise.lines.parts = parts;
  const int64_t items = wanted_items(d.rows() * d.c * cout);
  cut.product = of_groups(groups, items, d.pixels(), kTileRows);
  const int panels = ceil_div(y.padded_c(), kWideBlock);
  cut.column_groups = static_cast<int>(
      std::clamp<int64_t>(items / cut.product.items(), 1, std::max(1, panels / kMinPanels)));
  return cut;
}

size_t inverted_residual_scratch(const Shape& x, int ksize, int stride, int cout, int reduced) {
  const Shape d = inverted_residual_inside(x, stride);
  return std::max({dwconv_scratch(x, ksize), squeeze_excite_scratch(reduced),
                   conv1x1_forward_scratch(d, Shape::nhwc(d.n, d.h, d.w, cout), true)});
}

void inverted_residual_forward(const Context& context, const InvertedResidual& args) {
  const DwconvForward& depthwise = args.depthwise;
  const Shape& d = depthwise.y.shape;
  const RowCut &lines = depthwise.cut.lines, &rows = args.product.cut;
  if (!args.staged) {
    dwconv_forward(context, depthwise);
    squeeze_excite_forward(context, args.se, d.n);
    conv1x1_forward(context, args.product);
    return;
  }
  require(lines.groups == rows.groups && lines.images == rows.images,
          "inverted_residual: both convolutions must be cut into the same image groups");
  check_dwconv_forward(depthwise);
  check_conv1x1_forward(args.product);
  require(depthwise.pooled != nullptr && args.se.mean == depthwise.pooled,
          "inverted_residual: squeeze-excite must read the depthwise convolution's pool");
  const Pool pool = dwconv_pool(depthwise);
  const auto depthwise_item = pick(dwconv_forward_variants(), context.isa).function;
  const auto product = pick(conv1x1_forward_variants(), context.isa).function;
  const int units = depthwise.cut.units, columns = args.product.column_groups;
  context.workers->run_staged(
      lines.groups, lines.parts * units,
      [&](int group, int i, int worker) {
        depthwise_item(depthwise, group * lines.parts + i / units, i % units,
                       context.worker_scratch(worker));
      },
      [&](int group, int worker) {
        pool_join(pool, group);
        const RowCut::Range range = lines.range(group, 0, d.n, 1);
        squeeze_excite_group(context, args.se, range.first_image, range.images, worker);
      },
      rows.parts * columns,
      [&](int group, int i, int worker) {
        product(args.product, group * rows.parts + i / columns, i % columns,
                context.worker_scratch(worker));
      });
}

}  // namespace mbconv::ops
