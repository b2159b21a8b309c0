#include "ops/dwconv.h"

#include <doctest/doctest.h>

#include "lib/error.h"
#include "ops/padding.h"
#include "test/dwconv_case.h"

using namespace mbconv;
using namespace mbconv::test;
using ops::Activation;

namespace {

// Sums of at most 25 terms.
constexpr double kTolerance = 3;

}  // namespace

// The reference pads by the same function as the kernels: here are TensorFlow's numbers themselves.
TEST_CASE("dwconv: padding is TensorFlow's SAME") {
  const auto check = [](int size, int ksize, int stride, int outputs, int before) {
    CAPTURE(size);
    CAPTURE(ksize);
    CAPTURE(stride);
    CHECK(ops::same_padding(size, ksize, stride).outputs == outputs);
    CHECK(ops::same_padding(size, ksize, stride).before == before);
  };
  check(112, 3, 1, 112, 1);
  check(7, 5, 1, 7, 2);
  check(1, 3, 1, 1, 1);
  check(112, 3, 2, 56, 0);
  check(224, 3, 2, 112, 0);
  check(15, 3, 2, 8, 1);
  check(56, 5, 2, 28, 1);
  check(7, 5, 2, 4, 2);
  check(1, 3, 2, 1, 1);
  check(1, 5, 2, 1, 2);
  check(2, 5, 2, 1, 1);
}

TEST_CASE("dwconv: matches reference") {
  for_each_dwconv([&](int ksize, int stride) {
    for (const Map& m : some(kMaps, 3)) {
      CAPTURE(m.h);
      DwconvForwardCase forward({"", map_shape(m, 96, true), ksize, stride}, Values::reals);
      check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
      DwconvForwardCase narrow({"",
                                map_shape(m, 24, false),
                                ksize,
                                stride,
                                {true, Activation::linear, false, true},
                                true},
                               Values::reals);
      check_matches_reference(ops::dwconv_forward_variants(), narrow, kTolerance);
    }
  });
  if (!small_run()) {
    DwconvForwardCase large({"", map_shape(kLargeMap, 48, true), 3, 1}, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), large, kTolerance);
  }
  for (const Block& b : some(kBlocks, 2)) {
    CAPTURE(b.expanded);
    DwconvForwardCase forward({"", map_shape(b.map, b.expanded, true), b.ksize, b.stride},
                              Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
  for (const Activation f : ops::kActivations) {
    CAPTURE(std::string(name(f)));
    DwconvForwardCase forward({"", map_shape({1, 5, 7}, 24, false), 3, 1, {true, f, true}, true},
                              Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
}

TEST_CASE("dwconv: tails and misalignment") {
  const int last = small_run() ? 3 : 33;
  for (int c = 1; c <= last; ++c) {
    CAPTURE(c);
    DwconvForwardCase forward({"", map_shape({1, 4, 5}, c, false), c % 4 < 2 ? 3 : 5, 1 + c % 2},
                              Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
  for (const int c : some(std::vector<int>{40, 56, 64, 72, 88, 112, 136, 144}, 2)) {
    CAPTURE(c);
    DwconvForwardCase forward({"", map_shape({2, 5, 4}, c, false), 3, 1, {}, true}, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
  // Every remainder of the blocks of outputs, and maps smaller than the kernel.
  for_each_dwconv([&](int ksize, int stride) {
    const int widest = small_run() ? 4 : 34;
    for (int size = 1; size <= widest; ++size) {
      CAPTURE(size);
      DwconvForwardCase forward({"", map_shape({1, 1 + size % 4, size}, 8, false), ksize, stride},
                                Values::reals);
      check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
    }
  });
}

TEST_CASE("dwconv: lines longer than a tile of fp32 sums") {
  if (small_run()) return;
  for (const int stride : {1, 2}) {
    DwconvForwardCase forward({"", map_shape({1, 2, 600}, 16, false), 3, stride}, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
}

// Streamed, and more than the rows of an fp32 sum in a slot.
TEST_CASE("dwconv: many small images") {
  if (small_run()) return;
  for (const Map& m : {Map{350, 8, 8}, Map{700, 7, 5}}) {
    CAPTURE(m.w);
    const bool wide = m.w == 8;
    DwconvForwardCase forward({"",
                               map_shape(m, wide ? 48 : 40, wide),
                               3,
                               1,
                               {true, Activation::swish},
                               false,
                               true,
                               {{m.n, 1, 1}, 0}},
                              Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
}

TEST_CASE("dwconv: exact on small integers") {
  for_each_dwconv([&](int ksize, int stride) {
    for (const int channels : {48, 24}) {
      DwconvForwardCase forward({"",
                                 map_shape({2, 5, 7}, channels, channels == 48),
                                 ksize,
                                 stride,
                                 {true, Activation::relu, true, true},
                                 true},
                                Values::integers);
      check_exact(ops::dwconv_forward_variants(), forward);
    }
  });
}

TEST_CASE("dwconv: any cut gives the same sums") {
  for (const DwconvCase& c : dwconv_cut_cases()) {
    CAPTURE(c.name);
    DwconvForwardCase forward(c, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
}

TEST_CASE("dwconv: writes only its output") {
  for (const DwconvCase& c : dwconv_cut_cases()) {
    CAPTURE(c.name);
    DwconvForwardCase forward(c, Values::reals);
    check_writes_only_its_output(ops::dwconv_forward_variants(), forward);
  }
  for_each_dwconv([&](int ksize, int stride) {
    DwconvForwardCase forward({"", map_shape({2, 3, 4}, 24, false), ksize, stride, {}, true, false},
                              Values::reals);
    check_writes_only_its_output(ops::dwconv_forward_variants(), forward);
  });
}

TEST_CASE("dwconv: thread count") {
  for (const DwconvCase& c : dwconv_cut_cases()) {
    CAPTURE(c.name);
    DwconvForwardCase forward(c, Values::reals);
    check_thread_count(ops::dwconv_forward_variants(), forward);
  }
}

TEST_CASE("dwconv: refuses shapes that do not fit together") {
  DwconvForwardCase forward({"", map_shape({1, 5, 5}, 24, false), 3, 2, {}, true}, Values::reals);
  const ops::Context context{Isa::generic, &workers(1), nullptr, 0};
  const auto refused = [&](const auto& change) {
    ops::DwconvForward args = forward.args_;
    change(args);
    CHECK_THROWS_AS(ops::dwconv_forward(context, args), Error);
  };
  refused([](auto& a) { a.ksize = 7; });
  refused([](auto& a) { a.stride = 3; });
  refused([](auto& a) { a.w.n = 25; });
  refused([](auto& a) { a.w.k = 25; });
  refused([](auto& a) { a.y.shape.h = 2; });
  refused([](auto& a) { a.y.shape.block = 16; });
  refused([](auto& a) {  // only a finished y is NHWC where x is not
    a.x.y.shape = Shape::wide(1, 5, 5, 96);
    a.y.shape = Shape::nhwc(1, 3, 3, 96);
    a.w.n = a.sums.channels = 96;
    a.x_out = {};
  });
  refused([](auto& a) { a.sums.slots = 2; });
  refused([](auto& a) { a.finish.bias = a.pivot; });
  refused([](auto& a) {
    a.sums = {};
    a.finish = {a.pivot, Activation::linear, a.x.y};
  });
  std::vector<float> mean(32);
  refused([&](auto& a) { a.pooled = mean.data(); });
  refused([](auto& a) { a.x_out.shape.w = 4; });
  const auto refused_expanded = [&](const auto& change) {
    refused([&](auto& a) {
      a.sums = {};
      a.x_out = {};
      a.finish = {a.pivot, Activation::linear};
      a.expand = {{a.x.y.data, Shape::nhwc(1, 5, 5, 8)}, {a.w.data, 8, 24}, a.finish};
      CHECK_NOTHROW(ops::check_dwconv_forward(a));
      change(a);
    });
  };
  refused_expanded([](auto& a) { a.expand.v.shape.w = 4; });
  refused_expanded([](auto& a) { a.expand.w.k = 9; });
  refused_expanded([](auto& a) { a.expand.w.n = 25; });
  refused_expanded([](auto& a) { a.expand.finish = {}; });
  refused_expanded([](auto& a) { a.expand.finish.skip = a.x.y; });
  refused_expanded([](auto& a) { a.x_out = {const_cast<float*>(a.x.y.data), a.x.y.shape}; });
  refused_expanded([&](auto& a) { a.pooled = mean.data(); });
}
