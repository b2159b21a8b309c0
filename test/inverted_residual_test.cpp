#include "ops/inverted_residual.h"

#include <doctest/doctest.h>

#include <string>

#include "lib/error.h"
#include "ops/conv1x1_ref.h"
#include "ops/dwconv_ref.h"
#include "ops/pool.h"
#include "test/op_test.h"
#include "test/shapes.h"
#include "test/squeeze_excite_case.h"

using namespace mbconv;
using namespace mbconv::test;
using ops::Activation;

namespace {

struct Case {
  std::string name;
  Map map;  // of the input
  int cin, expanded;
  bool expand;
  int ksize, stride, cout, reduced;
  bool skip = false;
  Activation activation = Activation::swish;
  // As the op cuts, if no groups: of the depthwise lines and of the product.
  ops::RowCut lines = {0, 0, 0}, rows = {0, 0, 0};
  int column_groups = 1;
};

Dense<Tracked> conv1x1(const Dense<Tracked>& x, ops::Packed<const float> w) {
  const Dense<Tracked> weights = unpack<Tracked>(w);
  Dense<Tracked> y({x.shape[0], x.shape[1], w.n});
  ops::ref::conv1x1_forward(x.shape[0] * x.shape[1], w.k, w.n, x.values.data(), w.k,
                            weights.values.data(), w.n, y.values.data(), w.n);
  return y;
}

class Forward {
 public:
  Memory memory;
  ops::InvertedResidual args_{};

  explicit Forward(const Case& c) : reduced_(c.reduced) {
    const Map& m = c.map;
    const Shape v = Shape::nhwc(m.n, m.h, m.w, c.cin), x = Shape::wide(m.n, m.h, m.w, c.expanded);
    const Shape d = ops::inverted_residual_inside(x, c.stride),
                y = Shape::nhwc(d.n, d.h, d.w, c.cout);
    Inputs in(memory, Values::reals, static_cast<uint64_t>(c.expanded * 100 + c.cout));
    ops::InvertedResidualCut cut =
        ops::inverted_residual_cut(x, c.ksize, c.stride, c.cout, c.expand ? c.cin : 0);
    if (c.lines.groups > 0) {
      cut.depthwise.lines = c.lines;
      cut.product = c.rows;
      cut.column_groups = c.column_groups;
      cut.staged =
          c.lines.groups > 1 && c.lines.groups == c.rows.groups && c.lines.images == c.rows.images;
    }
    const size_t padded = static_cast<size_t>(d.n * d.padded_c());
    ops::DwconvForward& depthwise = args_.depthwise;
    if (c.expand) {
      depthwise.x.y.shape = x;
      depthwise.expand = {in.tensor(v, -1, 1), in.weights(c.cin, c.expanded),
                          in.finish(x, {c.activation})};
    } else {
      depthwise.x = in.deferred(x, {false});
    }
    depthwise.w = in.weights(c.ksize * c.ksize, c.expanded);
    depthwise.y = {memory.output<float>(d.size()), d};
    depthwise.ksize = c.ksize;
    depthwise.stride = c.stride;
    depthwise.cut = cut.depthwise;
    depthwise.finish = in.finish(d, {c.activation});
    depthwise.pool_partial =
        memory.work<double>(ops::pool_partial_size(d, cut.depthwise.lines, false));
    depthwise.pooled = memory.output<float>(padded);
    args_.se = squeeze_excite_inputs(in, memory, d, c.reduced, c.activation);
    args_.se.mean = depthwise.pooled;
    args_.se.u = memory.output<float>(static_cast<size_t>(d.n * c.reduced));
    args_.se.gate = memory.output<float>(padded);
    ops::Conv1x1Forward& product = args_.product;
    product.x.y = depthwise.y;
    product.x.gate = args_.se.gate;
    product.w = in.weights(c.expanded, c.cout);
    product.y = {memory.output<float>(y.size()), y};
    product.cut = cut.product;
    product.column_groups = cut.column_groups;
    product.finish = in.finish(y, {Activation::linear, c.skip});
    args_.staged = cut.staged;
    oracle();
  }

  size_t scratch() const {
    const ops::DwconvForward& p = args_.depthwise;
    return ops::inverted_residual_scratch(p.x.y.shape, p.ksize, p.stride, args_.product.w.n,
                                          reduced_);
  }
  void run(const ops::Context& context) { ops::inverted_residual_forward(context, args_); }

  void check(double c) const {
    const Shape& d = args_.depthwise.y.shape;
    const ops::SqueezeExcite& se = args_.se;
    check_close("d", unpack(args_.depthwise.y), d_, c);
    check_close("pooled", unpack(se.mean, d.n, d.c, d.padded_c()), mean_, 2 * c);
    check_close("gate", unpack(se.gate, d.n, d.c, d.padded_c()), gate_, c);
    check_close("y", unpack(args_.product.y), y_, c);
    CHECK_MESSAGE(padding_is_zero(args_.depthwise.y), "d is not zero in its padding");
    CHECK_MESSAGE(padding_is_zero(args_.product.y), "y is not zero in its padding");
  }

 private:
  // The composition of the references of the unfused ops.
  void oracle() {
    const ops::DwconvForward& p = args_.depthwise;
    const Shape &s = p.x.y.shape, &d = p.y.shape;
    const Dense<Tracked> x =
        p.expand ? finished(p.expand.finish, conv1x1(unpack<Tracked>(p.expand.v), p.expand.w))
                 : finished(p.x);
    const Dense<Tracked> filter = unpack<Tracked>(p.w);
    d_ = Dense<Tracked>({d.n, d.pixels(), d.c});
    ops::ref::dwconv_forward({s.n, s.h, s.w, s.c, p.ksize, p.stride}, x.values.data(),
                             filter.values.data(), d_.values.data());
    d_ = finished(p.finish, d_);
    mean_ = pooled(d_);
    const ops::SqueezeExcite& se = args_.se;
    const auto w1 = unpack<Tracked>(se.w1, se.reduced, d.c, se.padded);
    const auto w2 = unpack<Tracked>(se.w2, se.reduced, d.c, se.padded);
    gate_ = Dense<Tracked>({d.n, d.c});
    Dense<Tracked> gated = d_;
    const auto channels = static_cast<size_t>(d.c);
    const size_t image = static_cast<size_t>(d.pixels()) * channels;
    for (int n = 0; n < d.n; ++n) {
      const auto mean = mean_.values.begin() + n * d.c;
      const auto result = ops::ref::squeeze_excite_forward(
          se.activation, std::vector<Tracked>(mean, mean + d.c), w1.values,
          tracked(se.b1, se.reduced), w2.values, tracked(se.b2, d.c));
      std::copy(result.gate.begin(), result.gate.end(), gate_.values.begin() + n * d.c);
      for (size_t i = 0; i < image; ++i) {
        Tracked& value = gated[static_cast<size_t>(n) * image + i];
        value = value * result.gate[i % channels];
      }
    }
    y_ = finished(args_.product.finish, conv1x1(gated, args_.product.w));
  }

  int reduced_;
  Dense<Tracked> d_, mean_, gate_, y_;
};

std::vector<Case> cases() {
  std::vector<Case> all = {
      {"expanded, with skip", {2, 7, 7}, 40, 240, true, 5, 1, 40, 10, true},
      {"stage 1, not expanded", {3, 9, 8}, 32, 32, false, 3, 1, 16, 8},
      {"lines and rows in parts",
       {2, 11, 13},
       24,
       144,
       true,
       3,
       2,
       24,
       6,
       false,
       Activation::swish,
       {1, 3, 2},
       {1, 2, 2}},
      {"groups of 2 images, the last of 1, in column groups",
       {5, 5, 5},
       80,
       480,
       true,
       3,
       1,
       112,
       20,
       false,
       Activation::swish,
       {2, 1, 3},
       {2, 1, 3},
       3},
      {"one group", {1, 4, 4}, 112, 672, true, 5, 2, 192, 28},
      {"the op's own cut", {9, 14, 14}, 16, 96, true, 3, 1, 16, 4, true},
      {"sigmoid, channels that fill no vector",
       {9, 6, 5},
       8,
       20,
       true,
       3,
       1,
       9,
       3,
       false,
       Activation::sigmoid},
      {"relu6", {9, 6, 5}, 8, 40, false, 5, 2, 24, 3, false, Activation::relu6},
  };
  all.push_back({"one group, cut differently", {4, 7, 7}, 16, 48, true, 3, 1, 16, 4});
  all.back().lines = {2, 1, 2};
  all.back().rows = {1, 1, 4};
  return some(all, 2);
}

constexpr double kTolerance = 3;

}  // namespace

TEST_CASE("inverted_residual: matches the composition of the references") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c);
    check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
  }
  for (const Map& m : some(kMaps, 2)) {
    CAPTURE(m.h);
    for (const int stride : {1, 2}) {
      Forward forward({"", m, 17, 96, true, 3, stride, 23, 5});
      check_matches_reference(ops::dwconv_forward_variants(), forward, kTolerance);
    }
  }
}

TEST_CASE("inverted_residual: writes only its output") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c);
    check_writes_only_its_output(ops::dwconv_forward_variants(), forward);
  }
}

TEST_CASE("inverted_residual: thread count") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c);
    check_thread_count(ops::dwconv_forward_variants(), forward);
  }
}

TEST_CASE("inverted_residual: refuses cuts into different image groups") {
  Forward forward(cases()[1]);
  forward.args_.depthwise.cut.lines = {1, 1, 3};
  forward.args_.product.cut = {2, 1, 2};
  forward.args_.staged = true;
  const ops::Context context{Isa::generic, &workers(1), nullptr, 0};
  CHECK_THROWS_AS(ops::inverted_residual_forward(context, forward.args_), Error);
}
