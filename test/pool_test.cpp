#include "ops/pool.h"

#include <doctest/doctest.h>

#include <string>

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
  bool slopes = false;
  Activation activation = Activation::swish;
  ops::RowCut cut = {0, 0, 0};  // as the op cuts, if no groups
  bool norm = true;             // false: x is finished
};

class Forward {
 public:
  Memory memory;

  Forward(const Case& c, Values values) {
    Inputs in(memory, values, static_cast<uint64_t>(c.x.c));
    args_.x = in.deferred(c.x, {c.norm, c.activation});
    args_.cut = c.cut.groups > 0 ? c.cut : ops::pool_cut(c.x);
    args_.partial = memory.work<double>(ops::pool_partial_size(c.x, args_.cut, c.slopes));
    const size_t padded = static_cast<size_t>(c.x.n * c.x.padded_c());
    args_.mean = memory.output<float>(padded);
    if (c.slopes) {
      args_.slopes = memory.output<double>(2 * padded);
      args_.bn_mean = in.vector(c.x, -0.5f, 0.5f);
      args_.bn_invstd = in.invstd(c.x);
    }
    oracle();
  }

  size_t scratch() const { return 0; }
  void run(const ops::Context& context) { ops::pool_forward(context, args_); }

  void check(double c) const {
    const Shape& s = args_.x.y.shape;
    const int padded = s.padded_c();
    check_close("mean", unpack(args_.mean, s.n, s.c, padded), mean_, c);
    CHECK_MESSAGE(padding_is_zero(args_.mean, s.n, s.c, padded), "mean is not zero in its padding");
    if (args_.slopes == nullptr) return;
    check_close("slopes", unpack<double>(args_.slopes, 2 * s.n, s.c, padded), slopes_, c);
    CHECK_MESSAGE(padding_is_zero(args_.slopes, 2 * s.n, s.c, padded),
                  "slopes are not zero in their padding");
  }

 private:
  void oracle() {
    const Shape& s = args_.x.y.shape;
    const Dense<Tracked> x = finished(args_.x);
    mean_ = pooled(x);
    if (args_.slopes == nullptr) return;
    const Dense<Tracked> slope =
        slopes(args_.x.y, args_.x.scale, args_.x.shift, args_.x.activation);
    slopes_ = Dense<Tracked>({2 * s.n, s.c});
    for_each_element(args_.x.y, [&](float y, size_t i, int n, int c) {
      const Tracked xhat = (Tracked(y) - Tracked(args_.bn_mean[c])) * Tracked(args_.bn_invstd[c]);
      slopes_[static_cast<size_t>(2 * n * s.c + c)] += slope[i];
      slopes_[static_cast<size_t>((2 * n + 1) * s.c + c)] += slope[i] * xhat;
    });
  }

  ops::Pool args_{};
  Dense<Tracked> mean_, slopes_;
};

Shape shape(const Map& m, int channels, bool wide) {
  return wide ? Shape::wide(m.n, m.h, m.w, channels) : Shape::nhwc(m.n, m.h, m.w, channels);
}

std::vector<Case> cases() {
  std::vector<Case> all = {
      {"wide", shape({2, 5, 7}, 96, true)},
      {"head", shape({3, 2, 2}, 80, false), true},
      {"3 parts of each image", shape({2, 9, 9}, 144, true), true, Activation::swish, {1, 3, 2}},
      {"groups of 2 images, the last of 1",
       shape({3, 4, 4}, 24, false),
       true,
       Activation::swish,
       {2, 1, 2}},
      {"longer than a tile of fp32 sums",
       shape({1, 17, 37}, 48, true),
       true,
       Activation::swish,
       {1, 1, 1}},
      {"the op's own cut", shape({1, 64, 64}, 64, false)},
      {"finished", shape({2, 7, 7}, 1280, false), false, Activation::swish, {0, 0, 0}, false},
  };
  return some(all, 4);
}

// Sums of up to 256 terms of one sign, one after another.
constexpr double kTolerance = 6;

}  // namespace

TEST_CASE("pool: matches reference") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_matches_reference(ops::pool_variants(), forward, kTolerance);
  }
  for (const Activation f : ops::kActivations) {
    CAPTURE(std::string(name(f)));
    Forward forward({"", shape({2, 7, 7}, 40, false), true, f}, Values::reals);
    check_matches_reference(ops::pool_variants(), forward, kTolerance);
  }
  for (const Map& m : some(kMaps, 3)) {
    CAPTURE(m.h);
    Forward forward({"", shape(m, 1152, true)}, Values::reals);
    check_matches_reference(ops::pool_variants(), forward, kTolerance);
  }
}

TEST_CASE("pool: tails and misalignment") {
  const int last = small_run() ? 4 : 65;
  for (int c = 1; c <= last; ++c) {
    CAPTURE(c);
    Forward forward({"", shape({2, 1, c}, c, false), true}, Values::reals);
    check_matches_reference(ops::pool_variants(), forward, kTolerance);
  }
}

TEST_CASE("pool: exact on small integers") {
  // Means of powers of two of pixels are exact.
  for (const Map& m : {Map{2, 4, 4}, Map{3, 1, 8}}) {
    Forward forward({"", shape(m, 24, false), true, Activation::relu}, Values::integers);
    check_exact(ops::pool_variants(), forward);
  }
}

TEST_CASE("pool: writes only its output") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_writes_only_its_output(ops::pool_variants(), forward);
  }
}

TEST_CASE("pool: thread count") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Forward forward(c, Values::reals);
    check_thread_count(ops::pool_variants(), forward);
  }
}
