#include <doctest/doctest.h>

#include <string>

#include "lib/error.h"
#include "ops/dwconv.h"
#include "ops/dwconv_ref.h"
#include "test/gradcheck.h"
#include "test/inputs.h"
#include "test/op_test.h"
#include "test/oracle.h"
#include "test/shapes.h"

using namespace mbconv;
using namespace mbconv::test;
using ops::Activation;

namespace {

// What comes from squeeze-excite and the project convolution.
const Inputs::GradParts kGated{true, true, true, true, Activation::swish};

struct Case {
  std::string name;
  Shape x;
  int ksize, stride;
  Pending pending = {true, Activation::swish};
  Inputs::GradParts dy = kGated;
  bool skip = false;
  ops::RowCut lines = {0, 0, 0};  // as the op cuts, if no groups
};

class Backward {
 public:
  Memory memory;
  ops::DwconvBackward args_{};

  Backward(const Case& c, Values values) {
    const int taps = c.ksize * c.ksize;
    Inputs in(memory, values, static_cast<uint64_t>(c.x.c * 1000 + c.ksize * 10 + c.stride));
    args_.dy = in.grad(ops::dwconv_output(c.x, c.stride), c.dy);
    args_.x = in.deferred(c.x, c.pending);
    args_.w = in.weights(taps, c.x.c);
    args_.ksize = c.ksize;
    args_.stride = c.stride;
    args_.cut = ops::dwconv_backward_cut(c.x, c.ksize, c.stride);
    if (c.lines.groups > 0) args_.cut.lines = c.lines;
    const int slots = args_.cut.lines.items();
    args_.dx = in.input_grad(args_.x, true, c.skip, slots);
    args_.dw = in.gradient(taps, c.x.c);
    args_.dw_slots = memory.work<float>(static_cast<size_t>(slots) * args_.dw.size());
    oracle();
  }

  size_t scratch() const { return ops::dwconv_scratch(args_.x.y.shape, args_.ksize); }
  void run(const ops::Context& context) { ops::dwconv_backward(context, args_); }

  void check(double c) const {
    check_close("dw", unpack(args_.dw), dw_, c);
    CHECK_MESSAGE(padding_is_zero(args_.dw), "dw is not zero in its padding");
    check_close("dz", unpack(args_.dx.dz), dx_.dz, c);
    CHECK_MESSAGE(padding_is_zero(args_.dx.dz), "dz is not zero in its padding");
    check_close("sums", unpack(args_.dx.sums, args_.dw.n), dx_.sums, c);
    CHECK_MESSAGE(padding_is_zero(args_.dx.sums, args_.dw.n), "sums are not zero in their padding");
  }

 private:
  void oracle() {
    const Shape& s = args_.x.y.shape;
    const ops::ref::DwconvSizes sizes{s.n, s.h, s.w, s.c, args_.ksize, args_.stride};
    const Dense<Tracked> dy = finished(args_.dy), x = finished(args_.x);
    const Dense<Tracked> w = unpack<Tracked>(args_.w);
    dw_ = unpack<Tracked>(
        ops::Packed<const float>{memory.start(args_.dw.data).data(), args_.dw.k, args_.dw.n});
    ops::ref::dwconv_backward_filter(sizes, x.values.data(), dy.values.data(), dw_.values.data());
    Dense<Tracked> dx({s.n, s.pixels(), s.c});
    ops::ref::dwconv_backward_input(sizes, dy.values.data(), w.values.data(), dx.values.data());
    dx_ = input_grad(dx, args_.dx, slots_of_rows(args_.cut.lines, s, s.h));
  }

  Dense<Tracked> dw_;
  InputGradValues dx_;
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
  return some(
      std::vector<Case>{
          {"3 parts of each image",
           shape({2, 17, 19}, 96, true),
           3,
           2,
           {},
           kGated,
           false,
           {1, 3, 2}},
          {"4 parts of each image",
           shape({3, 15, 15}, 24, false),
           5,
           2,
           {},
           kGated,
           true,
           {1, 4, 3}},
          {"a part for each line", shape({1, 7, 7}, 144, true), 5, 1, {}, kGated, false, {1, 7, 1}},
          {"a part for each line of a small map",
           shape({2, 7, 7}, 96, true),
           3,
           1,
           {},
           kGated,
           true,
           {1, 7, 2}},
          {"groups of 2 images, the last of 1",
           shape({5, 8, 8}, 72, false),
           3,
           1,
           {},
           kGated,
           true,
           {2, 1, 3}},
          {"14 parts of a larger map",
           shape({1, 56, 56}, 48, true),
           5,
           1,
           {},
           kGated,
           false,
           {1, 14, 1}},
          {"the op's own cut", shape({1, 56, 56}, 96, true), 3, 1},
          {"one item", shape({3, 9, 9}, 144, true), 5, 1, {}, kGated, false, {3, 1, 1}},
      },
      2);
}

constexpr double kTolerance = 3;

}  // namespace

TEST_CASE("dwconv backward: matches reference") {
  // The first block of a stage 1 without expansion reads a narrow tensor that is finished already.
  const Pending saved{false};
  for_each_kernel([&](int ksize, int stride) {
    for (const Map& m : some(kMaps, 3)) {
      CAPTURE(m.h);
      Backward backward({"", shape(m, 96, true), ksize, stride}, Values::reals);
      check_matches_reference(ops::dwconv_backward_variants(), backward, kTolerance);
      Backward narrow({"", shape(m, 24, false), ksize, stride, saved, kGated, true}, Values::reals);
      check_matches_reference(ops::dwconv_backward_variants(), narrow, kTolerance);
    }
  });
  // Streamed: more than 4 MiB.
  if (!small_run()) {
    for_each_kernel([&](int ksize, int stride) {
      Backward large({"", shape(kLargeMap, 48, true), ksize, stride}, Values::reals);
      check_matches_reference(ops::dwconv_backward_variants(), large, kTolerance);
    });
    for (const int stride : {1, 2}) {
      CAPTURE(stride);
      Backward finished({"", shape(kLargeMap, 48, false), 3, stride, saved, kGated, true},
                        Values::reals);
      check_matches_reference(ops::dwconv_backward_variants(), finished, kTolerance);
    }
  }
  for (const Block& b : some(kBlocks, 2)) {
    CAPTURE(b.expanded);
    Backward backward({"", shape(b.map, b.expanded, true), b.ksize, b.stride}, Values::reals);
    check_matches_reference(ops::dwconv_backward_variants(), backward, kTolerance);
  }
  for (const Activation f : ops::kActivations) {
    CAPTURE(std::string(name(f)));
    Backward backward(
        {"", shape({1, 5, 7}, 24, false), 3, 1, {true, f}, {true, true, true, true, f}},
        Values::reals);
    check_matches_reference(ops::dwconv_backward_variants(), backward, kTolerance);
  }
}

// Streamed, and more than the rows of an fp32 sum in a slot.
TEST_CASE("dwconv backward: many small images") {
  if (small_run()) return;
  for (const bool skip : {false, true}) {
    CAPTURE(skip);
    Backward wide({"", shape({350, 8, 8}, 48, true), 3, 1, {}, kGated, skip, {50, 1, 7}},
                  Values::reals);
    check_matches_reference(ops::dwconv_backward_variants(), wide, kTolerance);
    Backward narrow({"", shape({700, 7, 5}, 40, false), 5, 2, {}, kGated, skip, {100, 1, 7}},
                    Values::reals);
    check_matches_reference(ops::dwconv_backward_variants(), narrow, kTolerance);
  }
}

TEST_CASE("dwconv backward: tails and misalignment") {
  const int last = small_run() ? 3 : 33;
  for (int c = 1; c <= last; ++c) {
    CAPTURE(c);
    Backward backward({"", shape({1, 4, 5}, c, false), c % 4 < 2 ? 3 : 5, 1 + c % 2},
                      Values::reals);
    check_matches_reference(ops::dwconv_backward_variants(), backward, kTolerance);
  }
  for (const int c : some(std::vector<int>{40, 56, 64, 72, 88, 112, 136, 144}, 2)) {
    CAPTURE(c);
    Backward backward({"", shape({2, 5, 4}, c, false), 3, 1}, Values::reals);
    check_matches_reference(ops::dwconv_backward_variants(), backward, kTolerance);
  }
  for_each_kernel([&](int ksize, int stride) {
    const int widest = small_run() ? 4 : 34;
    for (int size = 1; size <= widest; ++size) {
      CAPTURE(size);
      Backward backward({"", shape({2, 1 + size % 4, size}, 8, false), ksize, stride},
                        Values::reals);
      check_matches_reference(ops::dwconv_backward_variants(), backward, kTolerance);
    }
  });
}

TEST_CASE("dwconv backward: lines longer than a tile of fp32 sums") {
  if (small_run()) return;
  for (const int stride : {1, 2}) {
    Backward backward({"", shape({1, 2, 600}, 16, false), 3, stride}, Values::reals);
    check_matches_reference(ops::dwconv_backward_variants(), backward, kTolerance);
  }
}

TEST_CASE("dwconv backward: exact on small integers") {
  for_each_kernel([&](int ksize, int stride) {
    for (const int channels : {48, 24}) {
      Backward backward({"",
                         shape({2, 5, 7}, channels, channels == 48),
                         ksize,
                         stride,
                         {true, Activation::relu},
                         {true, true, true, true, Activation::relu},
                         true},
                        Values::integers);
      check_exact(ops::dwconv_backward_variants(), backward);
    }
  });
}

TEST_CASE("dwconv backward: any cut gives the same sums") {
  for (const Case& c : cut_cases()) {
    CAPTURE(c.name);
    Backward backward(c, Values::reals);
    check_matches_reference(ops::dwconv_backward_variants(), backward, kTolerance);
  }
}

TEST_CASE("dwconv backward: writes only its output") {
  for (const Case& c : cut_cases()) {
    CAPTURE(c.name);
    Backward backward(c, Values::reals);
    check_writes_only_its_output(ops::dwconv_backward_variants(), backward);
  }
  for_each_kernel([&](int ksize, int stride) {
    Backward backward({"", shape({2, 3, 4}, 24, false), ksize, stride}, Values::reals);
    check_writes_only_its_output(ops::dwconv_backward_variants(), backward);
  });
}

TEST_CASE("dwconv backward: thread count") {
  for (const Case& c : cut_cases()) {
    CAPTURE(c.name);
    Backward backward(c, Values::reals);
    check_thread_count(ops::dwconv_backward_variants(), backward);
  }
}

TEST_CASE("dwconv backward: gradient") {
  for_each_kernel([&](int ksize, int stride) {
    const ops::ref::DwconvSizes s{2, 5, 4, 2, ksize, stride};
    Rng rng(11, 0, 0, Purpose::synthetic);
    const auto random = [&](int count) {
      std::vector<double> v(static_cast<size_t>(count));
      for (double& e : v) e = rng.uniform(-1, 1);
      return v;
    };
    std::vector<double> x = random(s.n * s.h * s.w * s.c), w = random(ksize * ksize * s.c);
    const std::vector<double> dy = random(s.n * s.rows().outputs * s.columns().outputs * s.c);
    const auto loss = [&] {
      std::vector<double> y(dy.size());
      ops::ref::dwconv_forward(s, x.data(), w.data(), y.data());
      return dot(y, dy);
    };
    std::vector<double> dx(x.size()), dw(w.size());
    ops::ref::dwconv_backward_input(s, dy.data(), w.data(), dx.data());
    ops::ref::dwconv_backward_filter(s, x.data(), dy.data(), dw.data());
    check_gradient("dx", x, dx, loss);
    check_gradient("dw", w, dw, loss);
  });
}

TEST_CASE("dwconv backward: refuses shapes that do not fit together") {
  Backward backward({"", shape({1, 5, 5}, 24, false), 3, 2}, Values::reals);
  const ops::Context context{Isa::generic, &workers(1), nullptr, 0};
  const auto refused = [&](const auto& change) {
    ops::DwconvBackward args = backward.args_;
    change(args);
    CHECK_THROWS_AS(ops::dwconv_backward(context, args), Error);
  };
  refused([](auto& a) { a.ksize = 4; });
  refused([](auto& a) { a.stride = 0; });
  refused([](auto& a) { a.w.n = 25; });
  refused([](auto& a) { a.dy.g.shape.h = 2; });
  refused([](auto& a) { a.dx.y = {}; });
  refused([](auto& a) { a.dx.sums = {}; });
  refused([](auto& a) { a.dx.sums.slots = 2; });
}
