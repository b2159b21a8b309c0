#include "ops/project.h"

#include <doctest/doctest.h>

#include <string>

#include "lib/error.h"
#include "test/op_test.h"
#include "test/shapes.h"
#include "test/squeeze_excite_case.h"

using namespace mbconv;
using namespace mbconv::test;
using ops::Activation;

namespace {

struct Case {
  std::string name;
  Shape x;
  int cout, reduced;
  Activation activation = Activation::swish;
  ops::ProjectForwardCut cut = {{0, 0, 0}, {0, 0, 0}};  // as the op cuts, if no groups
};

Shape shape(const Map& m, int channels) {
  return Shape::wide(m.n, m.h, m.w, channels);
}

class Forward {
 public:
  Memory memory;
  ops::ProjectForward args_{};

  explicit Forward(const Case& c) {
    const Shape y = Shape::nhwc(c.x.n, c.x.h, c.x.w, c.cout);
    const size_t padded = static_cast<size_t>(c.x.n * c.x.padded_c());
    const ops::ProjectForwardCut cut =
        c.cut.product.groups > 0 ? c.cut : ops::project_forward_cut(c.x, c.cout);
    Inputs in(memory, Values::reals, static_cast<uint64_t>(c.x.c * 1000 + c.cout));
    ops::Pool& pool = args_.pool;
    pool.x = in.deferred(c.x, {true, c.activation});
    pool.cut = cut.pool;
    pool.partial = memory.work<double>(ops::pool_partial_size(c.x, cut.pool, false));
    pool.mean = memory.output<float>(padded);
    args_.se = squeeze_excite_inputs(in, memory, c.x, c.reduced, c.activation);
    args_.se.mean = pool.mean;
    args_.se.u = memory.output<float>(static_cast<size_t>(c.x.n * c.reduced));
    args_.se.gate = memory.output<float>(padded);
    ops::Conv1x1Forward& product = args_.product;
    product.x = pool.x;
    product.x.gate = args_.se.gate;
    product.w = in.weights(c.x.c, c.cout);
    product.y = {memory.output<float>(y.size()), y};
    product.pivot = in.vector(y, -0.5f, 0.5f);
    product.cut = cut.product;
    product.sums = in.sums(cut.product.items(), y.padded_c());
    oracle();
  }

  size_t scratch() const {
    return ops::project_scratch(args_.pool.x.y.shape, args_.product.y.shape.c, args_.se.reduced);
  }
  void run(const ops::Context& context) { ops::project_forward(context, args_); }

  void check(double c) const {
    const Shape& x = args_.pool.x.y.shape;
    const ops::SqueezeExcite& se = args_.se;
    const int channels = args_.product.y.shape.c;
    check_close("mean", unpack(args_.pool.mean, x.n, x.c, x.padded_c()), mean_, c);
    check_close("u", unpack(se.u, x.n, se.reduced, se.reduced), u_, c);
    check_close("gate", unpack(se.gate, x.n, x.c, se.padded), gate_, c);
    check_close("y", unpack(args_.product.y), y_, c);
    const ops::RowCut& cut = args_.product.cut;
    check_close("sums", unpack(args_.product.sums, channels),
                batch_sums(y_, args_.product.pivot, cut.items(), slots_of_rows(cut, x, x.pixels())),
                c);
    CHECK_MESSAGE(padding_is_zero(se.gate, x.n, x.c, se.padded), "gate is not zero in its padding");
    CHECK_MESSAGE(padding_is_zero(args_.product.y), "y is not zero in its padding");
    CHECK_MESSAGE(padding_is_zero(args_.product.sums, channels),
                  "sums are not zero in their padding");
  }

 private:
  void oracle() {
    const Shape& s = args_.pool.x.y.shape;
    const ops::SqueezeExcite& se = args_.se;
    const int cout = args_.product.w.n;
    Dense<Tracked> x = finished(args_.pool.x);
    const auto w1 = unpack<Tracked>(se.w1, se.reduced, s.c, se.padded);
    const auto w2 = unpack<Tracked>(se.w2, se.reduced, s.c, se.padded);
    mean_ = gate_ = Dense<Tracked>({s.n, s.c});
    u_ = Dense<Tracked>({s.n, se.reduced});
    const size_t channels = static_cast<size_t>(s.c),
                 image = static_cast<size_t>(s.pixels()) * channels;
    for (int n = 0; n < s.n; ++n) {
      const auto first = static_cast<size_t>(n) * image;
      std::vector<Tracked> m(channels);
      for (size_t i = 0; i < image; ++i)
        m[i % channels] += x[first + i] * Tracked(1.0 / s.pixels());
      const auto result = ops::ref::squeeze_excite_forward(
          se.activation, m, w1.values, tracked(se.b1, se.reduced), w2.values, tracked(se.b2, s.c));
      for (size_t i = 0; i < image; ++i) x[first + i] = x[first + i] * result.gate[i % channels];
      std::copy(m.begin(), m.end(), mean_.values.begin() + n * s.c);
      std::copy(result.u.begin(), result.u.end(), u_.values.begin() + n * se.reduced);
      std::copy(result.gate.begin(), result.gate.end(), gate_.values.begin() + n * s.c);
    }
    y_ = Dense<Tracked>({s.n, s.pixels(), cout});
    const Dense<Tracked> w = unpack<Tracked>(args_.product.w);
    ops::ref::conv1x1_forward(static_cast<int>(s.rows()), s.c, cout, x.values.data(), s.c,
                              w.values.data(), cout, y_.values.data(), cout);
  }

  Dense<Tracked> mean_, u_, gate_, y_;
};

std::vector<Case> cases() {
  std::vector<Case> all = {
      {"wide", shape({2, 3, 3}, 96), 24, 4},
      {"stage 1, narrow", shape({3, 5, 7}, 32), 16, 8},
      {"parts of the product, other parts of the pool",
       shape({2, 9, 9}, 144),
       40,
       6,
       Activation::swish,
       {{1, 2, 2}, {1, 3, 2}}},
      {"groups of 2 images, the last of 1",
       shape({3, 4, 4}, 240),
       80,
       10,
       Activation::swish,
       {{2, 1, 2}, {2, 1, 2}}},
      {"64 channels", shape({2, 4, 4}, 64), 24, 5},
      {"the widest", shape({1, 2, 2}, 1152), 320, 48},
      {"14 parts of a larger map",
       shape({1, 28, 28}, 96),
       24,
       4,
       Activation::swish,
       {{1, 8, 1}, {1, 14, 1}}},
      {"3 parts in steps of 12 rows",
       shape({2, 10, 10}, 96),
       24,
       4,
       Activation::swish,
       {{1, 2, 2}, {1, 3, 2, 12}}},
      {"the op's own cut", shape({1, 28, 28}, 144), 24, 6},
  };
  return some(all, 3);
}

// Products of gates that depend on sums themselves.
constexpr double kTolerance = 3;

}  // namespace

TEST_CASE("project: matches reference") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c);
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
  }
  for (const Activation f : {Activation::relu6, Activation::leaky_relu, Activation::linear}) {
    CAPTURE(std::string(name(f)));
    Forward forward({"", shape({2, 4, 4}, 40), 24, 5, f});
    check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
  }
}

TEST_CASE("project: tails and misalignment") {
  for (const Map& m : some(kMaps, 2)) {
    CAPTURE(m.h);
    // Also widths that are neither a multiple of a block nor of a vector.
    for (const int c : some(std::vector<int>{8, 23, 72}, 1)) {
      CAPTURE(c);
      Forward forward({"", shape(m, c), c + 1, 3});
      check_matches_reference(ops::conv1x1_forward_variants(), forward, kTolerance);
    }
  }
}

TEST_CASE("project: writes only its output") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c);
    check_writes_only_its_output(ops::conv1x1_forward_variants(), forward);
  }
}

TEST_CASE("project: thread count") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c);
    check_thread_count(ops::conv1x1_forward_variants(), forward);
  }
}

TEST_CASE("project: refuses cuts into different image groups") {
  Forward forward(cases()[0]);
  forward.args_.pool.cut = {1, 1, 2};
  forward.args_.product.cut = {2, 1, 1};
  const ops::Context context{Isa::generic, &workers(1), nullptr, 0};
  CHECK_THROWS_AS(ops::project_forward(context, forward.args_), Error);
}
