#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "lib/error.h"
#include "lib/parallel.h"
#include "lib/rng.h"
#include "ops/conv1x1.h"
#include "ops/far_weights.h"
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
  Map map;
  int cin, cout;
  bool wide = false;  // layout of dy
  Pending x = {};
  Inputs::GradParts dy = {};
  bool dx = true, dx_norm = true, dx_skip = false;
  ops::Conv1x1BackwardCut cut = {{0, 0, 0}};  // as the op cuts, if there are no groups
};

class Backward {
 public:
  Memory memory;
  ops::Conv1x1Backward args_{};

  Backward(const Case& c, Values values) {
    const Map& m = c.map;
    const Shape x = Shape::nhwc(m.n, m.h, m.w, c.cin);
    const Shape dy =
        c.wide ? Shape::wide(m.n, m.h, m.w, c.cout) : Shape::nhwc(m.n, m.h, m.w, c.cout);
    const ops::Conv1x1BackwardCut cut =
        c.cut.rows.groups > 0 ? c.cut : ops::conv1x1_backward_cut(x, dy);
    Inputs in(memory, values, static_cast<uint64_t>(c.cin * 1000 + c.cout));
    args_.dy = in.grad(dy, c.dy);
    args_.x = in.deferred(x, c.x);
    args_.dw = in.gradient(c.cin, c.cout);
    args_.dw_slots = memory.work<float>(static_cast<size_t>(cut.slots()) * args_.dw.size());
    if (args_.dy.y) args_.finished_dy = memory.work<float>(dy.size());
    args_.cut = cut;
    if (c.dx) {
      args_.wt = in.weights(c.cout, c.cin);
      args_.dx = in.input_grad(args_.x, c.dx_norm, c.dx_skip, cut.rows.items());
    }
    oracle();
  }

  size_t scratch() const {
    return ops::conv1x1_backward_scratch(args_.x.y.shape, args_.dy.shape());
  }
  void run(const ops::Context& context) { ops::conv1x1_backward(context, args_); }

  void check(double c) const {
    check_close("dw", unpack(args_.dw), dw_, c);
    CHECK_MESSAGE(padding_is_zero(args_.dw), "dw is not zero in its padding");
    if (!args_.dx) return;
    check_close("dz", unpack(args_.dx.dz), dx_.dz, c);
    CHECK_MESSAGE(padding_is_zero(args_.dx.dz), "dz is not zero in its padding");
    if (!args_.dx.y) return;
    check_close("sums", unpack(args_.dx.sums, args_.dw.k), dx_.sums, c);
    CHECK_MESSAGE(padding_is_zero(args_.dx.sums, args_.dw.k), "sums are not zero in their padding");
  }

 private:
  void oracle() {
    const int cin = args_.dw.k, cout = args_.dw.n;
    const Shape& s = args_.x.y.shape;
    const int rows = static_cast<int>(s.rows());
    const Dense<Tracked> dy = finished(args_.dy), x = finished(args_.x);
    dw_ = unpack<Tracked>(ops::Packed<const float>{memory.start(args_.dw.data).data(), cin, cout});
    ops::ref::conv1x1_backward_filter(rows, cin, cout, x.values.data(), cin, dy.values.data(), cout,
                                      dw_.values.data(), cout);
    if (!args_.dx) return;
    // The reference wants w, [Cin,Cout]; the op its transpose.
    Dense<Tracked> w({cin, cout}), dx({s.n, s.pixels(), cin});
    for (int i = 0; i < cin; ++i) {
      for (int o = 0; o < cout; ++o) w[static_cast<size_t>(i * cout + o)] = args_.wt.at(o, i);
    }
    ops::ref::conv1x1_backward_input(rows, cin, cout, dy.values.data(), cout, w.values.data(), cout,
                                     dx.values.data(), cin);
    dx_ = input_grad(dx, args_.dx, slots_of_rows(args_.cut.rows, s, s.pixels()));
  }

  Dense<Tracked> dw_;
  InputGradValues dx_;
};

const Pending kSaved{false}, kNormalised{true}, kPooled{false};
const Inputs::GradParts kPlain{true, false};
// The head's: the gradient of a pool, the same for all pixels of an image.
const Inputs::GradParts kPool{false, true, false, true, Activation::swish};

std::vector<Case> network_cases() {
  std::vector<Case> cases = {
      {"expand 16->96 with skip", {2, 3, 3}, 16, 96, true, kSaved, {}, true, true, true},
      {"classifier 40->10", {5, 1, 1}, 40, 10, false, kPooled, kPlain, true, false},
      {"head 24->80", {2, 2, 2}, 24, 80, false, kNormalised, kPool},
      {"without dx", {2, 3, 3}, 24, 40, false, kNormalised, {}, false},
      {"all that can be pending",
       {3, 5, 7},
       40,
       96,
       true,
       {true, Activation::swish, true, true},
       {true, true, true, true, Activation::swish},
       true,
       true,
       true},
      {"classifier 640->1000", {2, 1, 1}, 640, 1000, false, kPooled, kPlain, true, false},
      {"far weights", {1, 5, 5}, 392, 340, false, kNormalised, kPool},
      {"the op's own cut", {1, 56, 56}, 24, 48, true, kNormalised},
      {"head 320->1280", {1, 2, 2}, 320, 1280, false, kNormalised, kPool},
  };
  for (const Block& b : kBlocks) {
    if (b.expanded == b.cin || b.expanded > 600) continue;
    cases.push_back(
        {"expand to " + std::to_string(b.expanded), b.map, b.cin, b.expanded, true, kNormalised});
  }
  return some(cases, 4);
}

// Where dx and dw are for themselves, in several groups of columns or ranges of rows.
std::vector<Case> group_cases() {
  const Inputs::GradParts dy{true, true, true, true, Activation::swish};
  Case deep{"2 column groups of dx, dy deeper than a tile", {3, 3, 3}, 136, 432, true, kSaved, dy};
  deep.dx_skip = true;
  deep.cut = {{1, 1, 3}, 2, {1, 1, 3}, 9};
  Case plain{"3 column groups of dx, no batch norm", {5, 3, 3}, 136, 112, false, {}, kPlain};
  plain.x = {true, Activation::swish};
  plain.dx_skip = true;
  plain.cut = {{2, 1, 3}, 3, {1, 1, 5}, 2};
  Case classifier{
      "the classifier's, dw's rows in 2 ranges", {5, 1, 1}, 136, 40, false, kPooled, kPlain};
  classifier.dx_norm = false;
  classifier.cut = {{2, 1, 3}, 2, {1, 1, 5}, 1, 2};
  Case head{"the head's, dw's rows in 2 ranges", {3, 2, 2}, 40, 112, false, kSaved, kPool};
  head.cut = {{1, 1, 3}, 1, {1, 1, 3}, 3, 2};
  Case bare{"no batch norm anywhere", {2, 3, 3}, 24, 112, false, kSaved, kPlain};
  bare.dx_norm = false;
  bare.cut = {{1, 2, 2}, 1, {2, 1, 1}, 3};
  return {deep, plain, classifier, head, bare};
}

std::vector<Case> cut_cases() {
  const Pending x{true, Activation::swish};
  const Inputs::GradParts dy{true, true, true, true, Activation::swish};
  const auto with = [&](const char* name, const Map& m, ops::Conv1x1BackwardCut cut, int cin = 40,
                        int cout = 240) {
    return Case{name, m, cin, cout, true, x, dy, true, true, true, cut};
  };
  std::vector<Case> cases = {
      with("dw for itself, one row range", {3, 7, 7}, {{1, 2, 3}, 1, {3, 1, 1}, 5}),
      with("dw's rows in 2 ranges", {3, 7, 7}, {{1, 2, 3}, 1, {3, 1, 1}, 5, 2}),
      with("dw's rows in 3 ranges, in slots", {5, 3, 3}, {{2, 1, 3}, 1, {1, 2, 5}, 2, 3}),
      with("3 parts of each image", {3, 5, 7}, {{1, 3, 3}}),
      with("groups of 2 images, the last of 1", {5, 3, 3}, {{2, 1, 3}}),
      with("5 parts of each image, tiles not full", {2, 8, 8}, {{1, 5, 2}}),
      with("3 parts in steps of 12 rows", {2, 10, 10}, {{1, 3, 2, 12}}),
      with("dw for itself, parts in steps of 12 rows", {2, 10, 10},
           {{1, 3, 2, 12}, 1, {1, 2, 2, 12}, 3}),
      with("dw for itself, in slots", {5, 3, 3}, {{2, 1, 3}, 1, {1, 2, 5}, 2}),
      with("14 parts of a larger map", {1, 28, 28}, {{1, 14, 1}, 1, {1, 3, 1}, 3}),
      with("2 column groups of dx, a panel and two", {5, 3, 3}, {{2, 1, 3}, 2, {1, 1, 5}, 2}, 136,
           96),
  };
  for (const Case& c : group_cases()) cases.push_back(c);
  return some(cases, 2);
}

// dz and its sums are made of two products' errors.
constexpr double kTolerance = 3;

}  // namespace

TEST_CASE("conv1x1 backward: matches reference") {
  int far = 0;  // where dx is a product of its own
  for (const Case& c : network_cases()) {
    CAPTURE(c.name);
    Backward backward(c, Values::reals);
    check_matches_reference(ops::conv1x1_backward_variants(), backward, kTolerance);
    const ops::Conv1x1Backward& args = backward.args_;
    const Shape& x = args.x.y.shape;
    const ops::RowCut::Range item = args.cut.rows.item(0, x.n, x.pixels());
    far += !args.cut.one_sweep() &&
           ops::are_far(args.wt, x.rows(), static_cast<int>(item.end - item.begin));
  }
  CHECK((far > 0 || small_run()));
  if (!small_run()) {
    Backward large({"large", kLargeMap, 48, 16, false, kNormalised, {}, true, true, true},
                   Values::reals);
    check_matches_reference(ops::conv1x1_backward_variants(), large, kTolerance);
    // A finished dy of more than 4 MiB is streamed.
    Backward streamed({"streamed",
                       {4, 16, 16},
                       4,
                       1056,
                       true,
                       kSaved,
                       kPool,
                       true,
                       true,
                       false,
                       {{1, 2, 4}, 1, {2, 1, 2}, 22}},
                      Values::reals);
    check_matches_reference(ops::conv1x1_backward_variants(), streamed, kTolerance);
  }
  for (const Activation f : ops::kActivations) {
    CAPTURE(std::string(name(f)));
    Backward backward({"", {2, 3, 3}, 24, 24, false, {true, f}, {true, true, false, false, f}},
                      Values::reals);
    check_matches_reference(ops::conv1x1_backward_variants(), backward, kTolerance);
  }
  for (const Map& m : some(kMaps, 3)) {
    CAPTURE(m.h);
    Backward backward({"", m, 56, 88, false, kNormalised, {}, true, true, true}, Values::reals);
    check_matches_reference(ops::conv1x1_backward_variants(), backward, kTolerance);
  }
}

TEST_CASE("conv1x1 backward: tails and misalignment") {
  const int last = small_run() ? 4 : 33;
  for (int c = 1; c <= last; ++c) {
    CAPTURE(c);
    Backward backward({"", {1, 3, 3}, c, last + 1 - c}, Values::reals);
    check_matches_reference(ops::conv1x1_backward_variants(), backward, kTolerance);
  }
  for (const int c : some(std::vector<int>{49, 63, 64, 65, 80, 81, 97, 112, 113, 145}, 2)) {
    CAPTURE(c);
    Backward there({"", {1, 2, 3}, 17, c}, Values::reals);
    check_matches_reference(ops::conv1x1_backward_variants(), there, kTolerance);
    Backward back({"", {1, 2, 3}, c, 17}, Values::reals);
    check_matches_reference(ops::conv1x1_backward_variants(), back, kTolerance);
  }
  // Rows of dw: register tiles of 48 and 40 columns with every remainder.
  for (const int cin : some(std::vector<int>{1, 5, 8, 9, 10, 16, 17, 18, 19, 26, 27, 28}, 2)) {
    for (const int columns : {40, 48}) {
      CAPTURE(cin);
      CAPTURE(columns);
      Backward backward({"", {1, 5, 5}, cin, columns}, Values::reals);
      check_matches_reference(ops::conv1x1_backward_variants(), backward, kTolerance);
    }
  }
  std::vector<int> rows = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 17, 95, 96, 97, 191, 193};
  for (const int r : some(rows, 5)) {
    CAPTURE(r);
    for (const int columns : {24, 48}) {
      CAPTURE(columns);
      Backward backward({"", {1, 1, r}, 9, columns}, Values::reals);
      check_matches_reference(ops::conv1x1_backward_variants(), backward, kTolerance);
    }
  }
}

TEST_CASE("conv1x1 backward: exact on small integers") {
  for (Case c : some(network_cases(), 2)) {
    CAPTURE(c.name);
    c.x.activation = c.dy.activation = Activation::relu;
    Backward backward(c, Values::integers);
    check_exact(ops::conv1x1_backward_variants(), backward);
  }
}

TEST_CASE("conv1x1 backward: any cut gives the same sums") {
  for (const Case& c : cut_cases()) {
    CAPTURE(c.name);
    Backward backward(c, Values::reals);
    check_matches_reference(ops::conv1x1_backward_variants(), backward, kTolerance);
  }
}

TEST_CASE("conv1x1 backward: writes only its output") {
  for (const std::vector<Case>& cases : {cut_cases(), some(network_cases(), 5)}) {
    for (const Case& c : cases) {
      CAPTURE(c.name);
      Backward backward(c, Values::reals);
      check_writes_only_its_output(ops::conv1x1_backward_variants(), backward);
    }
  }
}

TEST_CASE("conv1x1 backward: thread count") {
  for (const Case& c : cut_cases()) {
    CAPTURE(c.name);
    Backward backward(c, Values::reals);
    check_thread_count(ops::conv1x1_backward_variants(), backward);
  }
}

TEST_CASE("conv1x1 backward: gradient") {
  constexpr int kM = 5, kK = 3, kN = 4;
  Rng rng(7, 0, 0, Purpose::synthetic);
  const auto random = [&](int count) {
    std::vector<double> v(static_cast<size_t>(count));
    for (double& e : v) e = rng.uniform(-1, 1);
    return v;
  };
  std::vector<double> x = random(kM * kK), w = random(kK * kN), dx(x.size()), dw(w.size());
  const std::vector<double> dy = random(kM * kN);
  const auto loss = [&] {
    std::vector<double> y(dy.size());
    ops::ref::conv1x1_forward(kM, kK, kN, x.data(), kK, w.data(), kN, y.data(), kN);
    return dot(y, dy);
  };
  ops::ref::conv1x1_backward_input(kM, kK, kN, dy.data(), kN, w.data(), kN, dx.data(), kK);
  ops::ref::conv1x1_backward_filter(kM, kK, kN, x.data(), kK, dy.data(), kN, dw.data(), kN);
  check_gradient("dx", x, dx, loss);
  check_gradient("dw", w, dw, loss);
}

TEST_CASE("conv1x1 backward: refuses shapes that do not fit together") {
  Backward backward({"", {1, 2, 2}, 16, 24}, Values::reals);
  std::vector<float> scratch(backward.scratch());
  const ops::Context context{Isa::generic, &workers(1), scratch.data(), scratch.size()};
  const auto refused = [&](const auto& change) {
    ops::Conv1x1Backward args = backward.args_;
    change(args);
    CHECK_THROWS_AS(ops::conv1x1_backward(context, args), Error);
  };
  refused([](auto& a) { a.dw.k = 17; });
  refused([](auto& a) { a.dw.n = 40; });
  refused([](auto& a) { a.wt.k = 40; });
  refused([](auto& a) { a.wt.n = 40; });
  refused([](auto& a) { a.dx.dz.shape.w = 3; });
  refused([](auto& a) { a.dy.g.shape.w = 3; });
  refused([](auto& a) { a.x.y.shape.block = 8; });
  refused([](auto& a) { a.cut.column_groups = 2; });
  refused([](auto& a) { a.cut.column_groups = 0; });
  refused([](auto& a) { a.cut.filter_groups = 2; });
  refused([](auto& a) { a.cut.filter_depths = 2; });
  refused([](auto& a) { a.cut.filter_depths = 0; });
  const auto refused_apart = [&](const auto& change) {
    refused([&](auto& a) {
      a.cut.filter_rows = a.cut.rows;
      a.cut.filter_groups = 1;
      CHECK_NOTHROW(ops::conv1x1_backward(context, a));
      change(a);
    });
  };
  refused_apart([](auto& a) { a.dx = {}; });
  refused_apart([](auto& a) { a.finished_dy = nullptr; });
  refused_apart([](auto& a) { a.finished_dy = const_cast<float*>(a.dy.g.data); });
  refused_apart([](auto& a) { a.cut.rows.groups = 0; });
  refused_apart([](auto& a) { a.cut.filter_rows.groups = 0; });
  refused_apart([](auto& a) {
    a.cut.filter_rows.parts = 2;
    a.dw_slots = nullptr;
  });
  refused([](auto& a) { a.dx.sums = {}; });
  refused([](auto& a) { a.dx.sums.slots = 2; });
}

TEST_CASE("conv1x1 backward: slots are added in their order, to the bit") {
  Workers workers(2);
  Rng rng(1, 0, 0, Purpose::synthetic);
  for (const int count : {0, 1, 2, 3, 4, 5, 7, 8, 9}) {
    for (const size_t size : {size_t{1}, size_t{1000}, size_t{1025}, size_t{4099}}) {
      CAPTURE(count);
      CAPTURE(size);
      std::vector<float> dw(size), slots(static_cast<size_t>(count) * size);
      for (float& v : dw) v = rng.normal();
      for (float& v : slots) v = rng.normal();
      std::vector<float> expected = dw;
      for (size_t i = 0; i < slots.size(); ++i) expected[i % size] += slots[i];
      ops::add_slots(workers, slots.data(), count, size, dw.data());
      CHECK(dw == expected);
    }
  }
}
