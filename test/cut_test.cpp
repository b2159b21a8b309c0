#include "ops/cut.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "ops/conv1x1.h"
#include "ops/dwconv.h"
#include "ops/far_weights.h"
#include "ops/project.h"
#include "ops/stem.h"
#include "test/shapes.h"

using namespace mbconv;
using namespace mbconv::test;
using ops::RowCut;

namespace {

// The items' ranges follow one another and cover [0, n * pixels) exactly; parts only split images.
void check_partition(const RowCut& cut, int n, int pixels) {
  CAPTURE(n);
  CAPTURE(pixels);
  CAPTURE(cut.images);
  CAPTURE(cut.parts);
  CAPTURE(cut.groups);
  bool ok = cut.images >= 1 && cut.parts >= 1 && cut.groups >= 1;
  ok = ok && (cut.parts == 1 || cut.images == 1);
  int64_t next = 0;
  for (int i = 0; ok && i < cut.items(); ++i) {
    const RowCut::Range r = cut.item(i, n, pixels);
    ok = ok && r.begin == next && r.end > r.begin;
    ok = ok && r.images >= 1 && r.first_image >= 0 && r.first_image + r.images <= n;
    ok = ok && r.begin >= int64_t{r.first_image} * pixels;
    ok = ok && r.end <= int64_t{r.first_image + r.images} * pixels;
    next = r.end;
  }
  CHECK(ok);
  CHECK(next == int64_t{n} * pixels);
}

}  // namespace

TEST_CASE("cut: row ranges partition the rows exactly") {
  for (const int n : {1, 2, 3, 5, 7, 16, 64, 100, 513}) {
    for (const int pixels : {1, 2, 9, 35, 49, 95, 96, 97, 196, 784, 12544}) {
      for (const int64_t items : {1, 2, 3, 5, 8, 63, 64, 65, 512}) {
        for (const int min_rows : {1, 8, 48, 96}) {
          const RowCut cut = ops::cut_rows(n, pixels, items, min_rows);
          check_partition(cut, n, pixels);
          if (cut.parts > 1) CHECK(pixels / cut.parts >= min_rows);
        }
      }
    }
  }
}

TEST_CASE("cut: as many items as wanted, where images and rows allow") {
  CHECK(ops::cut_rows(64, 49, 16, 48).items() == 16);
  CHECK(ops::cut_rows(64, 49, 64, 48).items() == 64);
  CHECK(ops::cut_rows(64, 49, 512, 48).items() == 64);  // images of 49 rows are not split
  CHECK(ops::cut_rows(64, 12544, 512, 48).items() == 512);
  CHECK(ops::cut_rows(1, 12544, 512, 48).items() == 261);
  CHECK(ops::cut_rows(5, 49, 3, 48).groups == 3);  // 2, 2 and 1
}

TEST_CASE("cut: parts of products begin at multiples of 12 rows where they are long enough") {
  for (const int pixels : {49, 196, 256, 784, 3136, 12544}) {
    for (const int parts : {1, 2, 3, 4, 5, 8, 12}) {
      const RowCut cut = RowCut{1, parts, 3}.with_step(pixels);
      CAPTURE(pixels);
      CAPTURE(parts);
      check_partition(cut, 3, pixels);
      const bool stepped = pixels / parts >= 2 * ops::kRowStep;
      CHECK(cut.step == (stepped ? ops::kRowStep : 1));
      for (int i = 0; stepped && i < cut.items(); ++i) {
        const RowCut::Range r = cut.item(i, 3, pixels);
        CHECK((r.begin - int64_t{r.first_image} * pixels) % ops::kRowStep == 0);
        CHECK(std::abs(r.end - r.begin - pixels / parts) <= ops::kRowStep);
      }
    }
  }
  // An image of 14 x 14 pixels in four: 33 register tiles of AVX2 instead of 36.
  const RowCut cut = RowCut{1, 4, 1}.with_step(196);
  CHECK(cut.item(0, 1, 196).end == 48);
  CHECK(cut.item(3, 1, 196).begin == 144);
}

TEST_CASE("cut: the number of items grows with the work and is bounded") {
  CHECK(ops::wanted_items(0) == 1);
  CHECK(ops::wanted_items(ops::kGrainMacs - 1) == 1);
  CHECK(ops::wanted_items(2 * ops::kGrainMacs) == 2);
  CHECK(ops::wanted_items(int64_t{1} << 60) == ops::kMaxItems);
}

TEST_CASE("far weights: pieces are asked for in the order in which a thread reads them") {
  // 7 panels of 800 rows, in groups of 3, 2 and 2: each group's panels for every depth.
  const ops::Packed<const float> w{nullptr, 800, 330};
  std::vector<ops::WeightPiece> order;
  for (int group = 0; group < 3; ++group) {
    const ops::Panels panels = ops::group_of(w.panels(), group, 3);
    for (int k0 = 0; k0 < w.k; k0 += ops::kTileDepth) {
      for (int panel = panels.first; panel < panels.last; ++panel)
        order.push_back({panel, k0, std::min(w.k, k0 + ops::kTileDepth)});
    }
  }
  size_t i = 0;
  for (int group = 0; group < 3; ++group) {
    const ops::Panels panels = ops::group_of(w.panels(), group, 3);
    for (const size_t end = i + static_cast<size_t>(3 * (panels.last - panels.first)); i < end;
         ++i) {
      const ops::WeightPiece next = ops::next_piece(w, panels, order[i]);
      const ops::WeightPiece& expected = order[(i + 1) % order.size()];
      CAPTURE(i);
      CHECK(next.panel == expected.panel);
      CHECK(next.k0 == expected.k0);
      CHECK(next.k1 == expected.k1);
    }
  }
  CHECK(i == order.size());
}

TEST_CASE("far weights: large ones, in products of 16 rows or more of passes of few tiles") {
  const auto far = [](int k, int n, int64_t pass_rows, int rows) {
    return ops::are_far({nullptr, k, n}, pass_rows, rows);
  };
  CHECK(far(192, 1152, 49, 49));     // the last blocks, of one picture of 224 pixels
  CHECK(far(1280, 1000, 64, 64));    // the classifier
  CHECK(!far(1280, 1000, 8, 8));     // too few rows
  CHECK(!far(192, 1152, 64, 1));     // batches of images of one pixel, each on its own
  CHECK(!far(192, 1152, 3136, 96));  // read for 33 tiles
  CHECK(!far(80, 480, 196, 96));     // in cache
}

TEST_CASE("cut: every op's cut partitions its rows or lines") {
  for (const int scale : {1, 4}) {
    for (const int n : {1, 2, 5, 32}) {
      for (const Block& b : kBlocks) {
        const Shape x = Shape::nhwc(n, b.map.h * scale, b.map.w * scale, b.cin);
        const Shape e = Shape::wide(n, x.h, x.w, b.expanded);
        const Shape d = ops::dwconv_output(e, b.stride);
        check_partition(ops::conv1x1_forward_cut(x, e), n, x.pixels());
        const ops::Conv1x1BackwardCut expand = ops::conv1x1_backward_cut(x, e);
        check_partition(expand.rows, n, x.pixels());
        CHECK(expand.column_groups >= 1);
        CHECK(expand.column_groups <= ceil_div(x.padded_c(), kWideBlock));
        if (!expand.one_sweep()) {
          check_partition(expand.filter_rows, n, x.pixels());
          CHECK(expand.filter_groups <= ceil_div(e.padded_c(), kWideBlock));
          CHECK(expand.filter_depths >= 1);
          CHECK(expand.filter_depths <= ceil_div(x.c, kLane));
        }

        const ops::DwconvCut forward = ops::dwconv_forward_cut(e, b.ksize, b.stride);
        const ops::DwconvCut backward = ops::dwconv_backward_cut(e, b.ksize, b.stride);
        check_partition(forward.lines, n, d.h);
        check_partition(backward.lines, n, e.h);
        CHECK(forward.units == ceil_div(e.padded_c(), kWideBlock));
        CHECK(backward.units == forward.units);

        const ops::ProjectForwardCut project = ops::project_forward_cut(d, b.cout);
        check_partition(project.pool, n, d.pixels());
        check_partition(project.product, n, d.pixels());
        CHECK(project.pool.groups == project.product.groups);
        CHECK(project.pool.images == project.product.images);
        const ops::ProjectBackwardCut grad = ops::project_backward_cut(d, b.cout);
        check_partition(grad.rows, n, d.pixels());
        CHECK(grad.channel_groups >= 1);
        CHECK(grad.channel_groups <= ceil_div(d.padded_c(), kWideBlock));
        check_partition(ops::pool_cut(d), n, d.pixels());
      }
      const Shape stem = ops::stem_output(n, 32 * scale, 31 * scale, 32);
      check_partition(ops::stem_cut(stem), n, stem.pixels());
    }
  }
}
