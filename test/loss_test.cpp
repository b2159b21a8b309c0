#include "ops/loss.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "lib/error.h"
#include "ops/loss_ref.h"
#include "test/gradcheck.h"
#include "test/inputs.h"
#include "test/op_test.h"
#include "test/oracle.h"
#include "test/shapes.h"

using namespace mbconv;
using namespace mbconv::test;

namespace {

struct Case {
  int images, classes;
  float smoothing;
  float range = 3;  // of the logits
  bool gradient = true;
};

class Forward {
 public:
  Memory memory;
  ops::Loss args_{};

  explicit Forward(const Case& c) {
    const Shape s = Shape::nhwc(c.images, 1, 1, c.classes);
    Inputs in(memory, Values::reals, static_cast<uint64_t>(c.images * 10000 + c.classes));
    args_.logits = in.tensor(s, -c.range, c.range);
    args_.bias = in.vector(s, -1, 1);
    std::vector<int32_t> labels;
    for (int n = 0; n < c.images; ++n) labels.push_back((n * 7 + c.classes - 1) % c.classes);
    args_.labels = memory.input(labels);
    args_.smoothing = c.smoothing;
    if (c.gradient) args_.dlogits = {memory.output<float>(s.size()), s};
    args_.dbias =
        memory.accumulated(in.matrix(1, s.c, s.padded_c(), [&](int) { return in.draw(1, 2); }));
    args_.loss = memory.output<double>(static_cast<size_t>(c.images));
    args_.rank = memory.output<int32_t>(static_cast<size_t>(c.images));
    oracle();
  }

  size_t scratch() const { return static_cast<size_t>(args_.logits.shape.padded_c() + 1); }
  void run(const ops::Context& context) { ops::loss_forward(context, args_); }

  void check(double c) const {
    const Shape& s = args_.logits.shape;
    check_close("loss", unpack<double>(args_.loss, s.n, 1, 1), loss_, c);
    for (int n = 0; n < s.n; ++n) CHECK(args_.rank[n] == rank_[static_cast<size_t>(n)]);
    check_close("dbias", unpack(args_.dbias, 1, s.c, s.padded_c()), dbias_, c);
    CHECK_MESSAGE(padding_is_zero(args_.dbias, 1, s.c, s.padded_c()),
                  "dbias is not zero in its padding");
    if (!args_.dlogits) return;
    check_close("dlogits", unpack(args_.dlogits), dlogits_, c);
    CHECK_MESSAGE(padding_is_zero(args_.dlogits), "dlogits are not zero in their padding");
  }

 private:
  // Magnitudes: the softmax p has the relative error of its exponent, rounded in proportion to its
  // size.
  void oracle() {
    const Shape& s = args_.logits.shape;
    const Dense<float> logits = unpack(args_.logits);
    loss_ = Dense<Tracked>({s.n, 1});
    dlogits_ = Dense<Tracked>({s.n, 1, s.c});
    dbias_ = unpack<Tracked>(memory.start(args_.dbias).data(), 1, s.c, s.padded_c());
    for (int n = 0; n < s.n; ++n) {
      std::vector<double> z;
      double largest = -1e30, size = 1;
      for (int k = 0; k < s.c; ++k) {
        // The sum is rounded to float: ranks compare what the op compares.
        z.push_back(logits[static_cast<size_t>(n * s.c + k)] + args_.bias[k]);
        largest = std::max(largest, z.back());
        size = std::max(size, std::abs(z.back()));
      }
      const auto result = ops::ref::loss<double>(z, args_.labels[n], args_.smoothing);
      rank_.push_back(result.rank);
      loss_[static_cast<size_t>(n)] = {result.loss, 2 * size};
      for (int k = 0; k < s.c; ++k) {
        const size_t at = static_cast<size_t>(k);
        const double smooth = args_.smoothing / static_cast<double>(s.c);
        const double target = (args_.labels[n] == k ? 1 - args_.smoothing : 0) + smooth;
        const double p = result.dz[at] + target;
        dlogits_[static_cast<size_t>(n * s.c + k)] = {result.dz[at] / s.n,
                                                      (p * (2 + largest - z[at]) + target) / s.n};
        if (args_.dlogits) dbias_[at] += dlogits_[static_cast<size_t>(n * s.c + k)];
      }
    }
  }

  Dense<Tracked> loss_, dlogits_, dbias_;
  std::vector<int> rank_;
};

std::vector<Case> cases() {
  std::vector<Case> all = {
      {3, 10, 0.1f},   {2, 17, 0},   {1, 2, 0.1f},      {5, 16, 0.3f}, {2, 100, 0.1f},
      {3, 1000, 0.1f}, {1, 1, 0.1f}, {4, 40, 0.1f, 60}, {2, 1000, 0},  {3, 33, 0.1f, 3, false}};
  return some(all, 3);
}

// The exponential's relative error, and that of a sum of 1000 terms of one sign, one after another.
constexpr double kTolerance = 8;

}  // namespace

TEST_CASE("loss: matches reference") {
  for (const Case& c : cases()) {
    if (c.classes == 1) continue;  // its gradient is zero: see below
    CAPTURE(c.classes);
    CAPTURE(c.images);
    Forward forward(c);
    check_matches_reference(ops::loss_variants(), forward, kTolerance);
  }
}

TEST_CASE("loss: tails and misalignment") {
  for (int classes = 2; classes <= (small_run() ? 5 : 65); ++classes) {
    CAPTURE(classes);
    Forward forward({2, classes, 0.1f});
    check_matches_reference(ops::loss_variants(), forward, kTolerance);
  }
}

TEST_CASE("loss: writes only its output") {
  for (const Case& c : cases()) {
    CAPTURE(c.classes);
    Forward forward(c);
    check_writes_only_its_output(ops::loss_variants(), forward);
  }
}

TEST_CASE("loss: thread count") {
  for (const Case& c : cases()) {
    CAPTURE(c.classes);
    Forward forward(c);
    check_thread_count(ops::loss_variants(), forward);
  }
}

TEST_CASE("loss: gradient") {
  for (const double smoothing : {0.0, 0.1}) {
    std::vector<double> z = {0.3, -1.2, 2.0, 0.7, -0.4};
    const int label = 3;
    const auto result = ops::ref::loss(z, label, smoothing);
    check_gradient("dz", z, result.dz, [&] { return ops::ref::loss(z, label, smoothing).loss; });
  }
}

TEST_CASE("loss: one class has no loss and no gradient") {
  for_each_level(ops::loss_variants(), [](Isa isa) {
    Forward forward({1, 1, 0.1f});
    run_fixture(forward, isa, 1, Fill::nan);
    CHECK(forward.args_.loss[0] == doctest::Approx(0).epsilon(1e-6));
    CHECK(std::abs(forward.args_.dlogits.data[0]) < 1e-7f);
    CHECK(forward.args_.rank[0] == 0);
  });
}

TEST_CASE("loss: of equal logits the first ranks first; NaN ranks the label last") {
  constexpr int kClasses = 5;
  struct Ranking {
    std::vector<float> logits;
    int ranks[kClasses];  // where the label is 0, 1, ...
  };
  const Ranking rankings[] = {{{1, 1, 1, 1, 1}, {0, 1, 2, 3, 4}},
                              {{2, 1, 3, 1, 3}, {2, 3, 0, 4, 1}},
                              {{1, 1, NAN, 1, 0}, {1, 2, 4, 3, 4}},
                              {{NAN, NAN, NAN, NAN, NAN}, {4, 4, 4, 4, 4}}};
  for_each_level(ops::loss_variants(), [&](Isa isa) {
    Forward forward({1, kClasses, 0.1f});
    const Shape s = forward.args_.logits.shape;
    Memory memory;
    const std::vector<float> zeros(s.size());
    forward.args_.bias = memory.input(zeros);
    for (const Ranking& ranking : rankings) {
      std::vector<float> logits = ranking.logits;
      logits.resize(s.size());
      forward.args_.logits = {memory.input(logits), s};
      const std::vector<double> z(ranking.logits.begin(), ranking.logits.end());
      for (int32_t label = 0; label < kClasses; ++label) {
        CAPTURE(label);
        forward.args_.labels = &label;
        run_fixture(forward, isa, 1, Fill::nan);
        CHECK(forward.args_.rank[0] == ranking.ranks[label]);
        CHECK(ops::ref::loss<double>(z, label, 0.1).rank == ranking.ranks[label]);
        const bool has_nan = std::isnan(z[2]);
        CHECK(std::isnan(forward.args_.loss[0]) == has_nan);
      }
    }
  });
}

TEST_CASE("loss: equal logits have the loss of chance") {
  for_each_level(ops::loss_variants(), [](Isa isa) {
    Forward forward({1, 5, 0.1f});
    const Shape s = forward.args_.logits.shape;
    Memory memory;
    std::vector<float> logits(s.size()), zeros(s.size());
    std::fill_n(logits.begin(), 5, 1.0f);
    forward.args_.bias = memory.input(zeros);
    forward.args_.logits = {memory.input(logits), s};
    run_fixture(forward, isa, 1, Fill::nan);
    CHECK(forward.args_.loss[0] == doctest::Approx(std::log(5.0)).epsilon(1e-6));
  });
}

TEST_CASE("loss: refuses labels outside of the classes") {
  Forward forward({2, 5, 0.1f});
  const ops::Context context{Isa::generic, &workers(1), nullptr, 0};
  for (const int32_t label : {-1, 5, 1000}) {
    const std::vector<int32_t> labels = {0, label};
    forward.args_.labels = labels.data();
    CHECK_THROWS_WITH_AS(
        ops::loss_forward(context, forward.args_),
        ("loss: label " + std::to_string(label) + " of image 1 is outside [0, 5)").c_str(), Error);
  }
}
