#include "ops/conv1x1.h"

#include <doctest/doctest.h>

#include <optional>
#include <string>

#include "lib/error.h"
#include "ops/far_weights.h"
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
  Shape x, y;
  Pending pending;
  bool x_out = false, sums = true;
  ops::RowCut cut = {0, 0, 0};  // as the op cuts, if no groups
  std::optional<Folded> finish = {};
  int column_groups = 1;
};

Shape shape(const Map& m, int channels, bool wide) {
  return wide ? Shape::wide(m.n, m.h, m.w, channels) : Shape::nhwc(m.n, m.h, m.w, channels);
}

class Forward {
 public:
  Memory memory;

  Forward(const Case& c, Values values) {
    Inputs in(memory, values, static_cast<uint64_t>(c.x.c * 1000 + c.y.c));
    args_.x = in.deferred(c.x, c.pending);
    if (c.x_out) args_.x_out = {memory.output<float>(c.x.size()), c.x};
    args_.w = in.weights(c.x.c, c.y.c);
    args_.y = {memory.output<float>(c.y.size()), c.y};
    args_.pivot = in.vector(c.y, -0.5f, 0.5f);
    args_.cut = c.cut.groups > 0 ? c.cut : ops::conv1x1_forward_cut(c.x, c.y);
    args_.column_groups = c.column_groups;
    if (c.sums) args_.sums = in.sums(args_.cut.items(), c.y.padded_c());
    if (c.finish) args_.finish = in.finish(c.y, *c.finish);

    x_ = finished(args_.x);
    const Dense<Tracked> w = unpack<Tracked>(args_.w);
    y_ = Dense<Tracked>({c.y.n, c.y.pixels(), c.y.c});
    ops::ref::conv1x1_forward(static_cast<int>(c.x.rows()), c.x.c, c.y.c, x_.values.data(), c.x.c,
                              w.values.data(), c.y.c, y_.values.data(), c.y.c);
    y_ = finished(args_.finish, y_);
    sums_ =
        batch_sums(y_, args_.pivot, args_.cut.items(), slots_of_rows(args_.cut, c.y, c.y.pixels()));
  }

  size_t scratch() const {
    const ops::Deferred& x = args_.x;
    const bool gated = x.gate != nullptr && x.scale == nullptr && !x.skip;
    return ops::conv1x1_forward_scratch(x.y.shape, args_.y.shape, gated);
  }
  void run(const ops::Context& context) { ops::conv1x1_forward(context, args_); }

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

  ops::Conv1x1Forward args_;

 private:
  Dense<Tracked> x_, y_, sums_;
};

// What the network does with 1x1 convolutions.
std::vector<Case> network_cases() {
  const Pending normalised{true, Activation::linear},
      skipped{true, Activation::linear, false, true};
  const Pending gated{true, Activation::swish, true}, finished{false};
  std::vector<Case> cases = {
      {"project 48->16", shape({1, 4, 4}, 48, true), shape({1, 4, 4}, 16, false), gated},
      {"far weights", shape({1, 5, 5}, 392, false), shape({1, 5, 5}, 340, false), gated},
      {"expand 16->96 with skip", shape({2, 3, 3}, 16, false), shape({2, 3, 3}, 96, true), skipped,
       true},
      {"classifier 40->10", shape({5, 1, 1}, 40, false), shape({5, 1, 1}, 10, false), finished,
       false, false},
      {"depth 400", shape({1, 3, 3}, 400, false), shape({1, 3, 3}, 24, false), normalised, true},
      {"depth 432, wide", shape({1, 3, 3}, 432, true), shape({1, 3, 3}, 40, false), gated},
      {"depth 384", shape({1, 3, 3}, 384, true), shape({1, 3, 3}, 16, false), gated},
      {"depth 1152 -> 320", shape({1, 2, 2}, 1152, true), shape({1, 2, 2}, 320, false), gated},
      {"head 112->1280", shape({1, 2, 2}, 112, false), shape({1, 2, 2}, 1280, false), normalised},
      {"classifier 1280->1000", shape({2, 1, 1}, 1280, false), shape({2, 1, 1}, 1000, false),
       finished, false, false},
      {"classifier of one picture", shape({1, 1, 1}, 1280, false), shape({1, 1, 1}, 1000, false),
       finished, false, false},
      {"the op's own cut", shape({1, 56, 56}, 24, false), shape({1, 56, 56}, 48, true), normalised},
      {"wide to wide", shape({2, 5, 7}, 144, true), shape({2, 5, 7}, 96, true), gated, true},
  };
  for (const Block& b : kBlocks) {
    const std::string size = std::to_string(b.expanded);
    if (b.expanded > 600) continue;  // covered above on fewer pixels
    cases.push_back({"expand to " + size, shape(b.map, b.cin, false),
                     shape(b.map, b.expanded, true), normalised});
    cases.push_back(
        {"project " + size, shape(b.map, b.expanded, true), shape(b.map, b.cout, false), gated});
  }
  return some(cases, 5);
}

// Sums of up to 1280 terms, and the error of an activation in each.
constexpr double kTolerance = 3;

}  // namespace

TEST_CASE("conv1x1: matches reference") {
  int far = 0;
  for (const Case& c : network_cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
    const ops::RowCut::Range item = forward.args_.cut.item(0, c.x.n, c.x.pixels());
    far += ops::are_far(forward.args_.w, c.x.rows(), static_cast<int>(item.end - item.begin));
  }
  CHECK(far > 0);
  // Far weights, of which an item asks for the next one's.
  for (const int groups : some(std::vector<int>{8, 3}, 1)) {
    CAPTURE(groups);
    const Map m{1, 5, 5};
    Forward forward({"",
                     shape(m, 392, true),
                     shape(m, 340, true),
                     {true, Activation::swish},
                     false,
                     false,
                     {1, 1, 1},
                     Folded{},
                     groups},
                    Values::reals);
    REQUIRE(ops::are_far(forward.args_.w, 25, 25));
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
  }
  // Streamed: as the op cuts, and in one item whose last tile has two rows or one.
  for (const Map& m : {kLargeMap, Map{1, 239, 94}, Map{1, 5, 4493}}) {
    if (small_run()) break;
    CAPTURE(m.w);
    Case c{"large", shape(m, 8, false), shape(m, 48, true), {}};
    if (m.n == 1) c.cut = {1, 1, 1};
    Forward large(c, Values::reals);
    check_matches_reference(ops::conv1x1_forward_variants(), large, kTolerance);
  }
  if (!small_run()) {
    Forward streamed({"", shape({1, 12, 16}, 24, false), shape({1, 12, 16}, 5520, true), {}},
                     Values::reals);
    REQUIRE(ops::are_far(streamed.args_.w, 192, 192));
    check_matches_reference(ops::conv1x1_forward_variants(), streamed, kTolerance);
  }
  for (const Activation f : ops::kActivations) {
    CAPTURE(std::string(name(f)));
    Forward forward(
        {"activation", shape({2, 3, 3}, 24, false), shape({2, 3, 3}, 24, false), {true, f}, true},
        Values::reals);
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
  }
  for (const Map& m : some(kMaps, 3)) {
    CAPTURE(m.h);
    Forward forward({"map",
                     shape(m, 56, false),
                     shape(m, 88, false),
                     {true, Activation::swish, true, true},
                     true},
                    Values::reals);
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
  }
}

TEST_CASE("conv1x1: tails and misalignment") {
  // Channels from one to two AVX-512 vectors and one, both sides; then widths of the last panel.
  const int last = small_run() ? 5 : 33;
  for (int c = 1; c <= last; ++c) {
    CAPTURE(c);
    Forward forward(
        {"", shape({1, 3, 3}, c, false), shape({1, 3, 3}, last + 1 - c, false), {}, true},
        Values::reals);
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
  }
  for (const int c : some(std::vector<int>{49, 63, 64, 65, 80, 81, 97, 112, 113, 145}, 2)) {
    CAPTURE(c);
    Forward forward({"", shape({1, 2, 3}, 17, false), shape({1, 2, 3}, c, false), {}},
                    Values::reals);
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
  }
  // Rows: register tiles with every remainder, and tiles of scratch memory around kTileRows.
  std::vector<int> rows = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13,  14,
                           15, 16, 17, 18, 19, 25, 26, 27, 28, 95, 96, 97, 191, 193};
  for (const int r : some(rows, 9)) {
    for (const int columns : {16, 24, 40, 48}) {
      CAPTURE(r);
      CAPTURE(columns);
      Forward forward({"", shape({1, 1, r}, 9, false), shape({1, 1, r}, columns, false), {}, true},
                      Values::reals);
      check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
    }
  }
}

TEST_CASE("conv1x1: exact on small integers") {
  for (Case c : some(network_cases(), 3)) {
    if (c.x.c > 500) continue;  // squares of longer sums leave the exact range
    CAPTURE(c.name);
    c.pending.activation = Activation::relu;
    Forward forward(c, Values::integers);
    check_exact(ops::conv1x1_forward_variants(), forward);
  }
}

namespace {

// Work items in numbers and sizes that the op would not choose for tensors this small.
std::vector<Case> cut_cases() {
  const Pending all{true, Activation::swish, true, true};
  const auto with = [&](const char* name, const Map& m, ops::RowCut cut) {
    return Case{name, shape(m, 48, true), shape(m, 40, false), all, true, true, cut};
  };
  const auto in_groups = [](const char* name, const Shape& x, Activation f) {
    const Pending pending{true, f, true, true};
    return Case{name, x, shape({x.n, x.h, x.w}, 240, true), pending, true, true, {1, 2, 3}, {}, 5};
  };
  return some({with("3 parts of each image", {3, 5, 7}, {1, 3, 3}),
               with("5 parts of each image, tiles not full", {2, 8, 8}, {1, 5, 2}),
               with("groups of 2 images, the last of 1", {5, 3, 3}, {2, 1, 3}),
               with("14 parts of a larger map", {1, 28, 28}, {1, 14, 1}),
               with("3 parts in steps of 12 rows", {2, 10, 10}, {1, 3, 2, 12}),
               with("one item of several tiles that straddle images", {3, 7, 7}, {3, 1, 1}),
               // x is finished once for all column groups, which read it in place or by blocks.
               in_groups("column groups", shape({3, 5, 7}, 40, false), Activation::sigmoid),
               in_groups("column groups, deep", shape({3, 5, 7}, 400, false), Activation::linear),
               in_groups("column groups, wide", shape({3, 5, 7}, 432, true), Activation::swish)},
              2);
}

}  // namespace

TEST_CASE("conv1x1: any cut gives the same sums") {
  for (const Case& c : cut_cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
  }
}

TEST_CASE("conv1x1: writes only its output") {
  for (const std::vector<Case>& cases : {cut_cases(), some(network_cases(), 5)}) {
    for (const Case& c : cases) {
      CAPTURE(c.name);
      Forward forward(c, Values::reals);
      check_writes_only_its_output(ops::conv1x1_forward_variants(), forward);
    }
  }
}

TEST_CASE("conv1x1: thread count") {
  for (const Case& c : cut_cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_thread_count(ops::conv1x1_forward_variants(), forward);
  }
}

namespace {

// A pass of inference: a finished output.
Case finished_case(const std::string& name, const Shape& x, const Shape& y, const Pending& pending,
                   const Folded& finish, const ops::RowCut& cut = {0, 0, 0},
                   int column_groups = 1) {
  return {name, x, y, pending, false, false, cut, finish, column_groups};
}

const Pending kFinished{false}, kGated{false, Activation::linear, true};

// A gate on a finished NHWC x: it goes into the weights of an image, or into x.
std::vector<Case> gated_cases() {
  const auto gated = [](const char* name, const Map& m, int cin, int cout, const ops::RowCut& cut,
                        int column_groups = 1) {
    return finished_case(name, shape(m, cin, false), shape(m, cout, false), kGated,
                         {Activation::linear, true}, cut, column_groups);
  };
  std::vector<Case> cases = {
      gated("images in parts", {2, 16, 12}, 144, 80, {1, 2, 2}),
      gated("channels that fill no lane", {3, 14, 14}, 20, 24, {1, 1, 3}),
      gated("deep, in column groups", {2, 16, 13}, 400, 80, {1, 1, 2}, 2),
      gated("more columns than pixels", {1, 16, 12}, 24, 208, {1, 1, 1}),
      gated("small images", {2, 5, 5}, 144, 24, {1, 1, 2}),
      gated("groups of 2 images", {3, 16, 12}, 24, 8, {2, 1, 2}),
      gated("x_out", {1, 16, 12}, 24, 8, {1, 1, 1}),
  };
  cases.back().x_out = true;
  return cases;
}

std::vector<Case> finished_cases() {
  const Folded expand{}, project{Activation::linear, true};
  const auto with = [](const char* name, const Map& m, int cin, int cout, bool narrow_to_wide,
                       const Pending& pending, const Folded& finish,
                       const ops::RowCut& cut = {0, 0, 0}, int column_groups = 1) {
    return finished_case(name, shape(m, cin, !narrow_to_wide), shape(m, cout, narrow_to_wide),
                         pending, finish, cut, column_groups);
  };
  std::vector<Case> cases = {
      with("expand", {2, 5, 7}, 24, 144, true, kFinished, expand, {1, 2, 2}, 2),
      with("project with gate and skip", {3, 7, 7}, 240, 40, false, kGated, project, {3, 1, 1}),
      with("project, deep, in column groups", {1, 3, 3}, 1152, 320, false, kGated, project,
           {1, 1, 1}, 7),
      with("14 parts of a larger map", {1, 28, 28}, 16, 96, true, kFinished, expand, {1, 14, 1}),
      with("groups of 2 images, the last of 1", {5, 3, 3}, 96, 24, false, kGated, {}, {2, 1, 3}),
      finished_case("head", shape({2, 2, 2}, 112, false), shape({2, 2, 2}, 1280, false), kFinished,
                    expand, {0, 0, 0}, 5),
      {"a raw output in column groups",
       shape({1, 3, 3}, 40, false),
       shape({1, 3, 3}, 240, true),
       {},
       true,
       true,
       {0, 0, 0},
       {},
       4},
  };
  if (!small_run()) {
    cases.push_back(with("large", kLargeMap, 8, 48, true, kFinished, expand));
    cases.push_back(with("large, with skip", kLargeMap, 48, 40, false, kGated, project));
  }
  for (const Activation f : ops::kActivations) {
    cases.push_back(finished_case("activation", shape({2, 3, 3}, 24, false),
                                  shape({2, 3, 3}, 23, false), kFinished, {f, true}));
  }
  cases = some(cases, 3);
  for (const Case& c : gated_cases()) cases.push_back(c);
  return cases;
}

}  // namespace

TEST_CASE("conv1x1: a finished output") {
  for (const Case& c : finished_cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
    check_writes_only_its_output(ops::conv1x1_forward_variants(), forward);
    check_thread_count(ops::conv1x1_forward_variants(), forward);
  }
  const int last = small_run() ? 5 : 65;
  for (int c = 1; c <= last; ++c) {
    CAPTURE(c);
    const Map m{1, 1, 1 + c * 7 % 23};
    Forward forward({"",
                     shape(m, 9, false),
                     shape(m, c, false),
                     {false},
                     false,
                     false,
                     {0, 0, 0},
                     Folded{Activation::sigmoid, c % 2 == 0}},
                    Values::reals);
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
  }
  const Map m{2, 3, 3};
  Forward exact({"",
                 shape(m, 48, true),
                 shape(m, 40, false),
                 {false, Activation::linear, true},
                 false,
                 false,
                 {0, 0, 0},
                 Folded{Activation::relu, true}},
                Values::integers);
  check_exact(ops::conv1x1_forward_variants(), exact);
}

TEST_CASE("conv1x1: refuses shapes that do not fit together") {
  Forward forward({"", shape({1, 2, 2}, 16, false), shape({1, 2, 2}, 24, false), {}, true},
                  Values::reals);
  const ops::Context context{Isa::generic, &workers(1), nullptr, 0};
  const auto refused = [&](const auto& change) {
    ops::Conv1x1Forward args = forward.args_;
    change(args);
    CHECK_THROWS_AS(ops::conv1x1_forward(context, args), Error);
  };
  refused([](auto& a) { a.w.k = 17; });
  refused([](auto& a) { a.w.n = 40; });
  refused([](auto& a) { a.y.shape.h = 3; });
  refused([](auto& a) { a.x_out.shape.c = 8; });
  refused([](auto& a) { a.sums.slots = 2; });
  refused([](auto& a) { a.sums.channels = 24; });
  refused([](auto& a) { a.x.skip = {a.x.y.data, Shape::nhwc(1, 2, 2, 32)}; });
  refused([](auto& a) { a.finish.bias = a.pivot; });
  refused([](auto& a) {
    a.sums = {};
    a.finish = {a.pivot, Activation::linear, a.x.y};
  });
}
