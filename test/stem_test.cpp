#include "ops/stem.h"

#include <doctest/doctest.h>

#include <optional>
#include <string>

#include "lib/error.h"
#include "ops/stem_ref.h"
#include "test/gradcheck.h"
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
  Map picture;
  int cout;
  bool sums = true;
  ops::RowCut cut = {0, 0, 0};  // as the op cuts, if no groups
  std::optional<Folded> finish = {};
};

size_t elements(const Map& m) {
  return static_cast<size_t>(m.n) * static_cast<size_t>(m.h * m.w * 3);
}

std::vector<float> pictures(Inputs& in, const Map& m) {
  std::vector<float> x(elements(m));
  for (float& v : x) v = in.draw(-2, 2);
  return x;
}

class Forward {
 public:
  Memory memory;
  ops::StemForward args_{};

  Forward(const Case& c, Values values) {
    const Map& m = c.picture;
    const Shape y = ops::stem_output(m.n, m.h, m.w, c.cout);
    Inputs in(memory, values, static_cast<uint64_t>(c.cout));
    args_.x = memory.input(pictures(in, m));
    args_.h = m.h;
    args_.w = m.w;
    args_.filter = in.weights(ops::kStemDepth, c.cout);
    args_.y = {memory.output<float>(y.size()), y};
    args_.pivot = in.vector(y, -0.5f, 0.5f);
    args_.cut = c.cut.groups > 0 ? c.cut : ops::stem_cut(y);
    if (c.sums) args_.sums = in.sums(args_.cut.items(), y.padded_c());
    if (c.finish) args_.finish = in.finish(y, *c.finish);

    const std::vector<Tracked> x(args_.x, args_.x + elements(m));
    const Dense<Tracked> w = unpack<Tracked>(args_.filter);
    y_ = Dense<Tracked>({y.n, y.pixels(), y.c});
    ops::ref::stem_forward({m.n, m.h, m.w, c.cout}, x.data(), w.values.data(), y_.values.data());
    y_ = finished(args_.finish, y_);
    sums_ = batch_sums(y_, args_.pivot, args_.cut.items(), slots_of_rows(args_.cut, y, y.pixels()));
  }

  size_t scratch() const { return ops::stem_scratch(args_.y.shape); }
  void run(const ops::Context& context) { ops::stem_forward(context, args_); }

  void check(double c) const {
    check_close("y", unpack(args_.y), y_, c);
    CHECK_MESSAGE(padding_is_zero(args_.y), "y is not zero in its padding");
    if (!args_.sums) return;
    const int channels = args_.y.shape.c;
    check_close("sums", unpack(args_.sums, channels), sums_, c);
    CHECK_MESSAGE(padding_is_zero(args_.sums, channels), "sums are not zero in their padding");
  }

 private:
  Dense<Tracked> y_, sums_;
};

class Backward {
 public:
  Memory memory;
  ops::StemBackward args_{};

  Backward(const Case& c, Values values, Activation f = Activation::swish) {
    const Map& m = c.picture;
    const Shape y = ops::stem_output(m.n, m.h, m.w, c.cout);
    Inputs in(memory, values, static_cast<uint64_t>(c.cout));
    args_.x = memory.input(pictures(in, m));
    args_.h = m.h;
    args_.w = m.w;
    args_.dy = in.grad(y, {true, true, false, false, f});
    args_.dfilter = in.gradient(ops::kStemDepth, c.cout);
    args_.cut = c.cut.groups > 0 ? c.cut : ops::stem_cut(y);
    args_.slots = memory.work<float>(static_cast<size_t>(args_.cut.items()) * args_.dfilter.size());

    const std::vector<Tracked> x(args_.x, args_.x + elements(m));
    const Dense<Tracked> dy = finished(args_.dy);
    dw_ = unpack<Tracked>(
        ops::Packed<const float>{memory.start(args_.dfilter.data).data(), ops::kStemDepth, c.cout});
    ops::ref::stem_backward_filter({m.n, m.h, m.w, c.cout}, x.data(), dy.values.data(),
                                   dw_.values.data());
  }

  size_t scratch() const { return ops::stem_scratch(args_.dy.shape()); }
  void run(const ops::Context& context) { ops::stem_backward(context, args_); }

  void check(double c) const {
    check_close("dw", unpack(args_.dfilter), dw_, c);
    CHECK_MESSAGE(padding_is_zero(args_.dfilter), "dw is not zero in its padding");
  }

 private:
  Dense<Tracked> dw_;
};

std::vector<Case> cases() {
  std::vector<Case> all = {
      {"odd picture", {2, 5, 7}, 32},
      {"3 parts of each image", {2, 9, 8}, 24, true, {1, 3, 2}},
      {"groups of 2 images, the last of 1", {3, 8, 8}, 40, true, {2, 1, 2}},
      {"one item of several tiles that straddle images", {3, 15, 15}, 32, true, {3, 1, 1}},
      {"14 parts of a larger picture", {1, 56, 56}, 32, true, {1, 14, 1}},
      {"the op's own cut", {2, 96, 95}, 32},
      {"more than a panel", {1, 9, 9}, 64},
      {"the widest", {1, 8, 8}, 136},
      {"without sums", {2, 8, 8}, 32, false},
  };
  return some(all, 3);
}

constexpr double kTolerance = 3;

}  // namespace

TEST_CASE("stem: matches reference") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_matches_reference(ops::stem_forward_variants(), forward, kTolerance);
    Backward backward(c, Values::reals);
    check_matches_reference(ops::stem_backward_variants(), backward, kTolerance);
  }
  for (const Activation f : ops::kActivations) {
    CAPTURE(std::string(name(f)));
    Backward backward({"", {1, 9, 9}, 24}, Values::reals, f);
    check_matches_reference(ops::stem_backward_variants(), backward, kTolerance);
  }
}

TEST_CASE("stem: tails and misalignment") {
  const int last = small_run() ? 4 : 33;
  for (int i = 1; i <= last; ++i) {
    CAPTURE(i);
    // Channels, picture heights and widths of all remainders; pictures smaller than the kernel.
    const Case c{"", {1, 1 + i % 5, i}, i};
    Forward forward(c, Values::reals);
    check_matches_reference(ops::stem_forward_variants(), forward, kTolerance);
    Backward backward(c, Values::reals);
    check_matches_reference(ops::stem_backward_variants(), backward, kTolerance);
  }
}

TEST_CASE("stem: exact on small integers") {
  for (const Case& c : cases()) {
    if (c.picture.h > 20) continue;
    CAPTURE(c.name);
    Forward forward(c, Values::integers);
    check_exact(ops::stem_forward_variants(), forward);
    Backward backward(c, Values::integers, Activation::relu);
    check_exact(ops::stem_backward_variants(), backward);
  }
}

TEST_CASE("stem: writes only its output") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_writes_only_its_output(ops::stem_forward_variants(), forward);
    Backward backward(c, Values::reals);
    check_writes_only_its_output(ops::stem_backward_variants(), backward);
  }
}

TEST_CASE("stem: thread count") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_thread_count(ops::stem_forward_variants(), forward);
    Backward backward(c, Values::reals);
    check_thread_count(ops::stem_backward_variants(), backward);
  }
}

TEST_CASE("stem: gradient") {
  const ops::ref::StemSizes s{2, 5, 4, 3};
  Rng rng(13, 0, 0, Purpose::synthetic);
  const auto random = [&](int count) {
    std::vector<double> v(static_cast<size_t>(count));
    for (double& e : v) e = rng.uniform(-1, 1);
    return v;
  };
  const std::vector<double> x = random(s.n * s.h * s.w * 3);
  const std::vector<double> dy = random(s.n * 3 * 2 * s.cout);
  std::vector<double> w = random(27 * s.cout), dw(w.size());
  ops::ref::stem_backward_filter(s, x.data(), dy.data(), dw.data());
  check_gradient("dw", w, dw, [&] {
    std::vector<double> y(dy.size());
    ops::ref::stem_forward(s, x.data(), w.data(), y.data());
    return dot(y, dy);
  });
}

TEST_CASE("stem: a finished output") {
  for (Case c : cases()) {
    CAPTURE(c.name);
    c.sums = false;
    for (const Activation f : {Activation::swish, Activation::sigmoid}) {
      c.finish = Folded{f};
      Forward forward(c, Values::reals);
      check_matches_reference(ops::stem_forward_variants(), forward, kTolerance);
      check_writes_only_its_output(ops::stem_forward_variants(), forward);
      check_thread_count(ops::stem_forward_variants(), forward);
    }
  }
  Forward exact({"", {2, 7, 9}, 24, false, {0, 0, 0}, Folded{Activation::relu}}, Values::integers);
  check_exact(ops::stem_forward_variants(), exact);
}

TEST_CASE("stem: refuses shapes that do not fit together") {
  const ops::Context context{Isa::generic, &workers(1), nullptr, 0};
  Forward forward({"", {1, 5, 5}, 24}, Values::reals);
  const auto refused = [&](const auto& change) {
    ops::StemForward args = forward.args_;
    change(args);
    CHECK_THROWS_AS(ops::stem_forward(context, args), Error);
  };
  refused([](auto& a) { a.h = 7; });
  refused([](auto& a) { a.filter.k = 28; });
  refused([](auto& a) { a.filter.n = 32; });
  refused([](auto& a) { a.finish.bias = a.pivot; });
  refused([](auto& a) {
    a.sums = {};
    a.finish = {a.pivot, Activation::linear, a.y};
  });
  Backward backward({"", {1, 5, 5}, 24}, Values::reals);
  backward.args_.w = 8;
  CHECK_THROWS_AS(ops::stem_backward(context, backward.args_), Error);
}
