#include "ops/dwconv.h"

#include <doctest/doctest.h>

#include <string>

#include "lib/error.h"
#include "ops/dwconv_ref.h"
#include "test/inputs.h"
#include "test/op_test.h"
#include "test/oracle.h"
#include "test/shapes.h"

using namespace mbconv;
using namespace mbconv::test;
using ops::Activation;

namespace {

struct Case {
  std::string name;
  Shape x;
  int ksize, stride;
  Pending pending = {true, Activation::swish};
  bool x_out = false, sums = true;
  ops::DwconvCut cut = {{0, 0, 0}, 0};  // as the op cuts, if no groups
};

class Forward {
 public:
  Memory memory;
  ops::DwconvForward args_{};

  Forward(const Case& c, Values values) {
    const Shape y = ops::dwconv_output(c.x, c.stride);
    Inputs in(memory, values, static_cast<uint64_t>(c.x.c * 1000 + c.ksize * 10 + c.stride));
    args_.x = in.deferred(c.x, c.pending);
    if (c.x_out) args_.x_out = {memory.output<float>(c.x.size()), c.x};
    args_.w = in.weights(c.ksize * c.ksize, c.x.c);
    args_.y = {memory.output<float>(y.size()), y};
    args_.pivot = in.vector(y, -0.5f, 0.5f);
    args_.ksize = c.ksize;
    args_.stride = c.stride;
    args_.cut = ops::dwconv_forward_cut(c.x, c.ksize, c.stride);
    if (c.cut.lines.groups > 0) args_.cut.lines = c.cut.lines;
    if (c.sums) args_.sums = in.sums(args_.cut.lines.items(), y.padded_c());

    x_ = finished(args_.x);
    const Dense<Tracked> w = unpack<Tracked>(args_.w);
    y_ = Dense<Tracked>({y.n, y.pixels(), y.c});
    ops::ref::dwconv_forward({c.x.n, c.x.h, c.x.w, c.x.c, c.ksize, c.stride}, x_.values.data(),
                             w.values.data(), y_.values.data());
    sums_ = batch_sums(y_, args_.pivot, args_.cut.lines.items(),
                       slots_of_rows(args_.cut.lines, y, y.h));
  }

  size_t scratch() const { return ops::dwconv_scratch(args_.x.y.shape, args_.ksize); }
  void run(const ops::Context& context) { ops::dwconv_forward(context, args_); }

  void check(double c) const {
    check_close("y", unpack(args_.y), y_, c);
    CHECK_MESSAGE(padding_is_zero(args_.y), "y is not zero in its padding");
    if (args_.x_out) {
      check_close("x_out", unpack(args_.x_out), x_, c);
      CHECK_MESSAGE(padding_is_zero(args_.x_out), "x_out is not zero in its padding");
    }
    if (!args_.sums) return;
    const int channels = args_.y.shape.c;
    check_close("sums", unpack(args_.sums, channels), sums_, c);
    CHECK_MESSAGE(padding_is_zero(args_.sums, channels), "sums are not zero in their padding");
  }

 private:
  Dense<Tracked> x_, y_, sums_;
};

template <class Body>
void for_each_kernel(const Body& body) {
  for (const int ksize : {3, 5}) {
    for (const int stride : {1, 2}) {
      CAPTURE(ksize);
      CAPTURE(stride);
      body(ksize, stride);
    }
  }
}

Shape shape(const Map& m, int channels, bool wide) {
  return wide ? Shape::wide(m.n, m.h, m.w, channels) : Shape::nhwc(m.n, m.h, m.w, channels);
}

std::vector<Case> cut_cases() {
  const Pending skipped{true, Activation::linear, false, true};
  return some(
      std::vector<Case>{
          {"3 parts of each image",
           shape({2, 17, 19}, 96, true),
           3,
           2,
           skipped,
           true,
           true,
           {{1, 3, 2}, 0}},
          {"4 parts of each image",
           shape({3, 15, 15}, 24, false),
           5,
           2,
           skipped,
           true,
           true,
           {{1, 4, 3}, 0}},
          {"a part for each line",
           shape({1, 7, 7}, 144, true),
           5,
           1,
           skipped,
           true,
           true,
           {{1, 7, 1}, 0}},
          {"groups of 2 images, the last of 1",
           shape({5, 8, 8}, 72, false),
           3,
           1,
           skipped,
           true,
           true,
           {{2, 1, 3}, 0}},
          {"14 parts of a larger map",
           shape({1, 56, 56}, 48, true),
           5,
           1,
           {},
           false,
           true,
           {{1, 14, 1}, 0}},
          {"the op's own cut", shape({1, 56, 56}, 96, true), 3, 1},
          {"one item", shape({3, 9, 9}, 144, true), 5, 1, {}, false, true, {{3, 1, 1}, 0}},
      },
      2);
}

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
  for_each_kernel([&](int ksize, int stride) {
    for (const Map& m : some(kMaps, 3)) {
      CAPTURE(m.h);
      Forward forward({"", shape(m, 96, true), ksize, stride}, Values::reals);
      check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
      Forward narrow(
          {"", shape(m, 24, false), ksize, stride, {true, Activation::linear, false, true}, true},
          Values::reals);
      check_matches_reference(ops::dwconv_forward_variants(), narrow, kTolerance);
    }
  });
  if (!small_run()) {
    Forward large({"", shape(kLargeMap, 48, true), 3, 1}, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), large, kTolerance);
  }
  for (const Block& b : some(kBlocks, 2)) {
    CAPTURE(b.expanded);
    Forward forward({"", shape(b.map, b.expanded, true), b.ksize, b.stride}, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
  for (const Activation f : ops::kActivations) {
    CAPTURE(std::string(name(f)));
    Forward forward({"", shape({1, 5, 7}, 24, false), 3, 1, {true, f, true}, true}, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
}

TEST_CASE("dwconv: tails and misalignment") {
  const int last = small_run() ? 3 : 33;
  for (int c = 1; c <= last; ++c) {
    CAPTURE(c);
    Forward forward({"", shape({1, 4, 5}, c, false), c % 4 < 2 ? 3 : 5, 1 + c % 2}, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
  for (const int c : some(std::vector<int>{40, 56, 64, 72, 88, 112, 136, 144}, 2)) {
    CAPTURE(c);
    Forward forward({"", shape({2, 5, 4}, c, false), 3, 1, {}, true}, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
  // Every remainder of the blocks of outputs, and maps smaller than the kernel.
  for_each_kernel([&](int ksize, int stride) {
    const int widest = small_run() ? 4 : 34;
    for (int size = 1; size <= widest; ++size) {
      CAPTURE(size);
      Forward forward({"", shape({1, 1 + size % 4, size}, 8, false), ksize, stride}, Values::reals);
      check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
    }
  });
}

TEST_CASE("dwconv: lines longer than a tile of fp32 sums") {
  if (small_run()) return;
  for (const int stride : {1, 2}) {
    Forward forward({"", shape({1, 2, 600}, 16, false), 3, stride}, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
}

TEST_CASE("dwconv: exact on small integers") {
  for_each_kernel([&](int ksize, int stride) {
    for (const int channels : {48, 24}) {
      Forward forward({"",
                       shape({2, 5, 7}, channels, channels == 48),
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
  for (const Case& c : cut_cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
}

TEST_CASE("dwconv: writes only its output") {
  for (const Case& c : cut_cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_writes_only_its_output(ops::dwconv_forward_variants(), forward);
  }
  for_each_kernel([&](int ksize, int stride) {
    Forward forward({"", shape({2, 3, 4}, 24, false), ksize, stride, {}, true, false},
                    Values::reals);
    check_writes_only_its_output(ops::dwconv_forward_variants(), forward);
  });
}

TEST_CASE("dwconv: thread count") {
  for (const Case& c : cut_cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_thread_count(ops::dwconv_forward_variants(), forward);
  }
}

TEST_CASE("dwconv: refuses shapes that do not fit together") {
  Forward forward({"", shape({1, 5, 5}, 24, false), 3, 2, {}, true}, Values::reals);
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
  refused([](auto& a) { a.sums.slots = 2; });
}
