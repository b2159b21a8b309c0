#include "ops/sgd.h"

#include <doctest/doctest.h>

#include "ops/sgd_ref.h"
#include "test/inputs.h"
#include "test/op_test.h"
#include "test/oracle.h"
#include "test/shapes.h"

using namespace mbconv;
using namespace mbconv::test;

namespace {

struct Part {
  size_t size;  // a multiple of kLane
  bool decayed;
};

class Update {
 public:
  Memory memory;

  Update(const std::vector<Part>& parts, Values values) {
    size_t total = 0;
    for (const Part& p : parts) {
      ops::append_segments(total, p.size, p.decayed, segments_);
      // A gap that belongs to nobody, as that of frozen parameters.
      total += p.size + static_cast<size_t>(kLane);
    }
    Inputs in(memory, values, total);
    const auto numbers = [&] {
      return memory.accumulated(in.matrix(1, static_cast<int>(total), static_cast<int>(total),
                                          [&](int) { return in.draw(-2, 2); }));
    };
    args_.w = numbers();
    args_.g = numbers();
    args_.v = numbers();
    args_.lr = in.draw_or(0.5f, 0.1f, 0.2f);
    args_.momentum = in.draw_or(0.5f, 0.8f, 0.9f);
    args_.decay = in.draw_or(0.25f, 0.01f, 0.1f);
    args_.segments = segments_;
    args_.squares = memory.output<double>(segments_.size());
    oracle(total);
  }

  size_t scratch() const { return 0; }
  void run(const ops::Context& context) {
    before_ = ops::sum_of_squares(args_.w, args_.segments);
    during_ = ops::sgd_update(context, args_);
  }

  void check(double c) const {
    const int total = static_cast<int>(w_.size());
    check_close("w", unpack(args_.w, 1, total, total), w_, c);
    check_close("v", unpack(args_.v, 1, total, total), v_, c);
    // g is zero where it was used: compared as g + 1.
    Dense<float> g = unpack(args_.g, 1, total, total);
    for (float& v : g.values) v += 1;
    check_close("g + 1", g, g_, c);
    const auto scalar = [](double v) { return Dense<double>({1}, {v}); };
    // Up to 256 terms of one sign, one after another.
    check_close("squares", scalar(during_), squares_, 4 * c);
    check_close("sum_of_squares", scalar(before_), squares_, c > 0 ? 1e-6 : 0);
  }

 private:
  void oracle(size_t total) {
    const int n = static_cast<int>(total);
    w_ = unpack<Tracked>(memory.start(args_.w).data(), 1, n, n);
    v_ = unpack<Tracked>(memory.start(args_.v).data(), 1, n, n);
    g_ = unpack<Tracked>(memory.start(args_.g).data(), 1, n, n);
    squares_ = Dense<Tracked>({1});
    for (const ops::SgdSegment& s : segments_) {
      for (size_t i = s.begin; i < s.begin + s.size; ++i) {
        if (s.decayed) squares_[0] += w_[i] * w_[i];
        ops::ref::sgd<Tracked>(w_[i], g_[i], v_[i], args_.lr, args_.momentum,
                               s.decayed ? args_.decay : 0);
      }
    }
    for (Tracked& v : g_.values) v += 1;
  }

  std::vector<ops::SgdSegment> segments_;
  ops::Sgd args_{};
  double before_ = 0, during_ = 0;
  Dense<Tracked> w_, v_, g_, squares_;
};

const std::vector<Part> kParts = {
    {16, true}, {48, false}, {4096, true}, {2 * ops::kSgdPiece + 160, true}, {16, false}};
const std::vector<Part> kSmall = {{16, true}, {48, false}, {32, true}};

const std::vector<Part>& parts() {
  return small_run() ? kSmall : kParts;
}

constexpr double kTolerance = 2;

}  // namespace

TEST_CASE("sgd: matches reference") {
  Update update(parts(), Values::reals);
  check_matches_reference(ops::sgd_variants(), update, kTolerance);
}

TEST_CASE("sgd: tails and misalignment") {
  for (size_t lanes = 1; lanes <= 9; ++lanes) {
    CAPTURE(lanes);
    Update update({{lanes * 16, true}, {(10 - lanes) * 16, false}}, Values::reals);
    check_matches_reference(ops::sgd_variants(), update, kTolerance);
  }
}

TEST_CASE("sgd: exact on small integers") {
  Update update(kSmall, Values::integers);
  check_exact(ops::sgd_variants(), update);
}

TEST_CASE("sgd: writes only its output") {
  Update update(parts(), Values::reals);
  check_writes_only_its_output(ops::sgd_variants(), update);
}

TEST_CASE("sgd: thread count") {
  Update update(parts(), Values::reals);
  check_thread_count(ops::sgd_variants(), update);
}

TEST_CASE("sgd: segments cover a range in pieces") {
  std::vector<ops::SgdSegment> segments;
  ops::append_segments(32, 2 * ops::kSgdPiece + 16, true, segments);
  ops::append_segments(0, 16, false, segments);
  REQUIRE(segments.size() == 4);
  size_t next = 32;
  for (size_t i = 0; i < 3; ++i) {
    CHECK(segments[i].begin == next);
    CHECK(segments[i].size <= ops::kSgdPiece);
    CHECK(segments[i].decayed);
    next += segments[i].size;
  }
  CHECK(next == 32 + 2 * ops::kSgdPiece + 16);
  CHECK(segments[3].begin == 0);
  CHECK_FALSE(segments[3].decayed);
}
