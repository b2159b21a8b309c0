#include "ops/squeeze_excite.h"

#include <doctest/doctest.h>

#include <string>

#include "test/gradcheck.h"
#include "test/op_test.h"
#include "test/shapes.h"
#include "test/squeeze_excite_case.h"

using namespace mbconv;
using namespace mbconv::test;
using ops::Activation;

namespace {

struct Case {
  int images, channels, reduced;
  Activation activation = Activation::swish;
};

Shape pooled(const Case& c) {
  return Shape::wide(c.images, 1, 1, c.channels);
}

// Calls body(groups, first image of a group, images of a group): the last image on its own.
template <class Body>
void in_groups(int images, const Body& body) {
  const int most = images > 1 ? images - 1 : 1;
  body(
      images > 1 ? 2 : 1, [=](int g) { return g * most; },
      [=](int g) { return g == 0 ? most : images - most; });
}

class Forward {
 public:
  Memory memory;

  Forward(const Case& c, Values values) : images_(c.images) {
    const Shape s = pooled(c);
    Inputs in(memory, values, static_cast<uint64_t>(c.channels));
    args_ = squeeze_excite_inputs(in, memory, s, c.reduced, c.activation);
    args_.mean = in.per_image(s, -1, 1);
    args_.u = memory.output<float>(static_cast<size_t>(c.images * c.reduced));
    args_.gate = memory.output<float>(static_cast<size_t>(c.images * s.padded_c()));

    u_ = Dense<Tracked>({c.images, c.reduced});
    gate_ = Dense<Tracked>({c.images, c.channels});
    const auto w1 = unpack<Tracked>(args_.w1, c.reduced, c.channels, args_.padded);
    const auto w2 = unpack<Tracked>(args_.w2, c.reduced, c.channels, args_.padded);
    for (int n = 0; n < c.images; ++n) {
      const auto result = ops::ref::squeeze_excite_forward(
          c.activation, tracked(args_.mean + n * args_.padded, c.channels), w1.values,
          tracked(args_.b1, c.reduced), w2.values, tracked(args_.b2, c.channels));
      std::copy(result.u.begin(), result.u.end(), u_.values.begin() + n * c.reduced);
      std::copy(result.gate.begin(), result.gate.end(), gate_.values.begin() + n * c.channels);
    }
  }

  size_t scratch() const { return ops::squeeze_excite_scratch(args_.reduced); }
  void run(const ops::Context& context) { ops::squeeze_excite_forward(context, args_, images_); }
  void check(double c) const {
    check_close("u", unpack(args_.u, images_, args_.reduced, args_.reduced), u_, c);
    // Gates are no integers.
    check_close("gate", unpack(args_.gate, images_, args_.channels, args_.padded), gate_,
                c > 0 ? c : 3);
    CHECK_MESSAGE(padding_is_zero(args_.gate, images_, args_.channels, args_.padded),
                  "gate is not zero in its padding");
  }

 private:
  int images_;
  ops::SqueezeExcite args_{};
  Dense<Tracked> u_, gate_;
};

class Backward {
 public:
  Memory memory;

  Backward(const Case& c, Values values) {
    const Shape s = pooled(c);
    Inputs in(memory, values, static_cast<uint64_t>(c.channels));
    ops::SqueezeExcite f = squeeze_excite_inputs(in, memory, s, c.reduced, c.activation);
    f.mean = in.per_image(s, -1, 1);
    f.u = drawn_u(in, memory, c.images, c.reduced);
    // Integers: a gate of 2 has e = -2 dgate.
    f.gate = memory.input(in.matrix(c.images, c.channels, s.padded_c(),
                                    [&](int) { return in.draw_or(2, 0.1f, 0.9f); }));
    args_ = squeeze_excite_outputs(in, memory, f, c.images, 4);
    args_.dgate = in.per_image(s, -1, 1);
    want_ = squeeze_excite_oracle(memory, args_,
                                  unpack<Tracked>(args_.dgate, c.images, c.channels, s.padded_c()));
  }

  size_t scratch() const { return 0; }
  void run(const ops::Context& context) {
    const auto item =
        ops::pick(ops::squeeze_excite_backward_input_variants(), context.isa).function;
    in_groups(args_.images, [&](int groups, auto first, auto count) {
      context.workers->run(groups, [&](int g, int) { item(args_, first(g), count(g)); });
    });
    ops::squeeze_excite_backward_filter(context, args_);
  }
  void check(double c) const { check_squeeze_excite(args_, want_, c); }

 private:
  ops::SqueezeExciteBackward args_{};
  SqueezeExciteGrads want_;
};

std::vector<Case> cases() {
  std::vector<Case> all = {{2, 96, 4},   {3, 32, 8},    {8, 64, 7},    {3, 144, 6}, {1, 240, 10},
                           {2, 672, 28}, {3, 1152, 48}, {5, 1344, 56}, {2, 136, 1}};
  return some(all, 3);
}

constexpr double kTolerance = 3;

template <class Body>
void for_each_case(const Body& body) {
  for (const Case& c : cases()) {
    CAPTURE(c.channels);
    body(c);
  }
}

}  // namespace

TEST_CASE("squeeze_excite: matches reference") {
  for_each_case([](const Case& c) {
    Forward forward(c, Values::reals);
    check_matches_reference(ops::squeeze_excite_reduce_variants(), forward, kTolerance);
    Backward backward(c, Values::reals);
    check_matches_reference(ops::squeeze_excite_backward_input_variants(), backward, kTolerance);
  });
  for (const Activation f : {Activation::relu, Activation::leaky_relu, Activation::sigmoid}) {
    CAPTURE(std::string(name(f)));
    Forward forward({3, 40, 10, f}, Values::reals);
    check_matches_reference(ops::squeeze_excite_reduce_variants(), forward, kTolerance);
    Backward backward({3, 40, 10, f}, Values::reals);
    check_matches_reference(ops::squeeze_excite_backward_input_variants(), backward, kTolerance);
  }
}

TEST_CASE("squeeze_excite: tails and misalignment") {
  const int last = small_run() ? 4 : 33;
  for (int i = 1; i <= last; ++i) {
    CAPTURE(i);
    const Case c{1 + i % 4, i, last + 1 - i};
    Forward forward(c, Values::reals);
    check_matches_reference(ops::squeeze_excite_reduce_variants(), forward, kTolerance);
    Backward backward(c, Values::reals);
    check_matches_reference(ops::squeeze_excite_backward_filter_variants(), backward, kTolerance);
  }
}

TEST_CASE("squeeze_excite: exact on small integers") {
  for (const Case& c : some(std::vector<Case>{{2, 96, 4}, {3, 40, 7}, {5, 144, 6}}, 2)) {
    Forward forward({c.images, c.channels, c.reduced, Activation::relu}, Values::integers);
    check_exact(ops::squeeze_excite_reduce_variants(), forward);
    Backward backward({c.images, c.channels, c.reduced, Activation::linear}, Values::integers);
    check_exact(ops::squeeze_excite_backward_filter_variants(), backward);
  }
}

TEST_CASE("squeeze_excite: writes only its output") {
  for_each_case([](const Case& c) {
    Forward forward(c, Values::reals);
    check_writes_only_its_output(ops::squeeze_excite_reduce_variants(), forward);
    Backward backward(c, Values::reals);
    check_writes_only_its_output(ops::squeeze_excite_backward_input_variants(), backward);
  });
}

TEST_CASE("squeeze_excite: thread count") {
  for_each_case([](const Case& c) {
    Forward forward(c, Values::reals);
    check_thread_count(ops::squeeze_excite_reduce_variants(), forward);
    Backward backward(c, Values::reals);
    check_thread_count(ops::squeeze_excite_backward_filter_variants(), backward);
  });
}

TEST_CASE("squeeze_excite: gradient") {
  constexpr size_t kC = 5, kR = 3;
  Rng rng(17, 0, 0, Purpose::synthetic);
  const auto random = [&](size_t count) {
    std::vector<double> v(count);
    for (double& e : v) e = rng.uniform(-1, 1);
    return v;
  };
  for (const Activation f : {Activation::swish, Activation::sigmoid, Activation::linear}) {
    std::vector<double> m = random(kC), w1 = random(kR * kC), b1 = random(kR), w2 = random(kR * kC),
                        b2 = random(kC);
    const std::vector<double> dgate = random(kC);
    const auto loss = [&] {
      return dot(ops::ref::squeeze_excite_forward(f, m, w1, b1, w2, b2).gate, dgate);
    };
    std::vector<double> dw1(w1.size()), db1(kR), dw2(w2.size()), db2(kC);
    const auto forward = ops::ref::squeeze_excite_forward(f, m, w1, b1, w2, b2);
    const std::vector<double> dm =
        ops::ref::squeeze_excite_backward(f, m, w1, w2, forward, dgate, dw1, db1, dw2, db2);
    check_gradient("dm", m, dm, loss);
    check_gradient("dw1", w1, dw1, loss);
    check_gradient("db1", b1, db1, loss);
    check_gradient("dw2", w2, dw2, loss);
    check_gradient("db2", b2, db2, loss);
  }
}
