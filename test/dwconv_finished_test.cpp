// The depthwise convolution as inference runs it: finished outputs with their pool, and an expand
// convolution in front.

#include <doctest/doctest.h>

#include "ops/far_weights.h"
#include "test/dwconv_case.h"

using namespace mbconv;
using namespace mbconv::test;
using ops::Activation;

namespace {

// Sums of at most 25 terms.
constexpr double kTolerance = 3;

}  // namespace

TEST_CASE("dwconv: a finished output and its pool") {
  for (DwconvCase c : dwconv_cut_cases()) {
    CAPTURE(c.name);
    c.pending = {false};
    c.x_out = c.sums = false;
    c.finish = Folded{};
    DwconvForwardCase forward(c, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
    check_writes_only_its_output(ops::dwconv_forward_variants(), forward);
    check_thread_count(ops::dwconv_forward_variants(), forward);
  }
  const auto finish = [](const Shape& x, int ksize, int stride, const Folded& folded) {
    return DwconvCase{"", x, ksize, stride, {false}, false, false, {{0, 0, 0}, 0}, folded};
  };
  for_each_dwconv([&](int ksize, int stride) {
    // Every remainder of the blocks of outputs, channels that fill no vector.
    const int widest = small_run() ? 4 : 34;
    for (int size = 1; size <= widest; ++size) {
      CAPTURE(size);
      DwconvForwardCase forward(
          finish(map_shape({1 + size % 3, 1 + size % 4, size}, size + 7, false), ksize, stride,
                 {Activation::sigmoid, size % 2 == 0}),
          Values::reals);
      check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
    }
    DwconvCase c = finish(map_shape({2, 4, 8}, 48, true), ksize, stride, {Activation::relu});
    DwconvForwardCase exact(c, Values::integers);
    check_exact(ops::dwconv_forward_variants(), exact);
  });
  for (const Activation f : ops::kActivations) {
    CAPTURE(std::string(name(f)));
    DwconvForwardCase forward(finish(map_shape({1, 5, 7}, 72, false), 3, 1, {f}), Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
  if (small_run()) return;
  // Stored past the caches; lines longer than a tile of fp32 sums.
  for (const Shape& x : {map_shape(kLargeMap, 96, true), map_shape({1, 2, 600}, 16, false)}) {
    DwconvForwardCase forward(finish(x, 3, 1, {}), Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
    check_writes_only_its_output(ops::dwconv_forward_variants(), forward);
  }
}

TEST_CASE("dwconv: an expand convolution in front") {
  const auto expand = [](const Shape& x, int ksize, int stride, const Folded& folded, int cin,
                         Activation expanded = Activation::swish) {
    return DwconvCase{"",    x,     ksize,          stride, {true, expanded},
                      false, false, {{0, 0, 0}, 0}, folded, cin};
  };
  for (DwconvCase c : dwconv_cut_cases()) {
    CAPTURE(c.name);
    c.x_out = c.sums = false;
    c.finish = Folded{};
    c.expand_cin = 24;
    DwconvForwardCase forward(c, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
    check_writes_only_its_output(ops::dwconv_forward_variants(), forward);
    check_thread_count(ops::dwconv_forward_variants(), forward);
  }
  DwconvForwardCase far(expand(map_shape({2, 4, 5}, 1352, true), 3, 1, {}, 100), Values::reals);
  REQUIRE(ops::are_far(far.args_.expand.w, 40, 20));
  check_matches_reference(ops::dwconv_forward_variants(), far, kTolerance);
  for_each_dwconv([&](int ksize, int stride) {
    for (const Map& m : some(kMaps, 3)) {
      CAPTURE(m.h);
      DwconvForwardCase forward(expand(map_shape(m, 96, true), ksize, stride, {}, 17),
                                Values::reals);
      check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
    }
    // More lines than are expanded at once, lines longer than a tile, channels that fill no vector,
    // and two rows left of a whole panel.
    const std::vector<Shape> shapes = {map_shape({1, 40, 9}, 23, false),
                                       map_shape({2, 9, 100}, 8, false),
                                       map_shape({1, 5, 98}, 48, true)};
    for (const Shape& x : some(shapes, 1)) {
      DwconvForwardCase forward(
          expand(x, ksize, stride, {Activation::sigmoid}, 9, Activation::sigmoid), Values::reals);
      check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
    }
    DwconvForwardCase exact(expand(map_shape({2, 4, 8}, 48, true), ksize, stride,
                                   {Activation::linear}, 5, Activation::relu),
                            Values::integers);
    check_exact(ops::dwconv_forward_variants(), exact);
  });
}
