#include "ops/dropout.h"

#include <doctest/doctest.h>

#include "test/inputs.h"
#include "test/op_test.h"
#include "test/oracle.h"

using namespace mbconv;
using namespace mbconv::test;

namespace {

class Apply {
 public:
  Memory memory;

  explicit Apply(int count, Values values) : count_(count) {
    Inputs in(memory, values, static_cast<uint64_t>(count));
    const auto numbers = [&] {
      return memory.input(in.matrix(1, count, count, [&](int) { return in.draw(1, 3); }));
    };
    x_ = numbers();
    mask_ = numbers();
    scale_ = in.draw_or(2, 0.5f, 1.5f);
    y_ = memory.output<float>(static_cast<size_t>(count));
    want_ = Dense<Tracked>({1, count});
    for (int i = 0; i < count; ++i)
      want_[static_cast<size_t>(i)] = double{x_[i]} * mask_[i] * scale_;
  }

  size_t scratch() const { return 0; }
  void run(const ops::Context& context) {
    ops::apply_dropout(context, x_, mask_, scale_, count_, y_);
  }
  void check(double c) const { check_close("y", unpack(y_, 1, count_, count_), want_, c); }

 private:
  int count_;
  const float *x_, *mask_;
  float scale_;
  float* y_;
  Dense<Tracked> want_;
};

constexpr int kCounts[] = {16, 48, 4096, 4112, 9999 / 16 * 16};

}  // namespace

TEST_CASE("dropout: matches reference") {
  for (const int count : kCounts) {
    Apply apply(count, Values::reals);
    check_matches_reference(ops::dropout_variants(), apply, 1.5);
  }
}

TEST_CASE("dropout: exact on small integers") {
  Apply apply(80, Values::integers);
  check_exact(ops::dropout_variants(), apply);
}

TEST_CASE("dropout: writes only its output") {
  for (const int count : kCounts) {
    Apply apply(count, Values::reals);
    check_writes_only_its_output(ops::dropout_variants(), apply);
  }
}

TEST_CASE("dropout: thread count") {
  Apply apply(9984, Values::reals);
  check_thread_count(ops::dropout_variants(), apply);
}

TEST_CASE(
    "dropout: the mask drops at the rate, scales the rest, and depends on seed, step and image") {
  constexpr int kImages = 5, kChannels = 1000, kPadded = 1008;
  const auto draw = [](uint64_t seed, int64_t step, int threads) {
    Memory memory;
    float* mask = memory.output<float>(size_t{kImages} * kPadded);
    memory.reset(Fill::nan);
    ops::draw_dropout_mask(workers(threads), 0.2f, seed, step, kImages, kChannels, mask);
    memory.check();
    CHECK(padding_is_zero(mask, kImages, kChannels, kPadded));
    return unpack(mask, kImages, kChannels, kPadded).values;
  };
  const std::vector<float> mask = draw(1, 7, 1);
  int dropped = 0;
  for (const float m : mask) {
    CHECK((m == 0 || m == 1.25f));
    dropped += m == 0;
  }
  CHECK(dropped > 900);  // 1000 expected, standard deviation 28
  CHECK(dropped < 1100);
  CHECK(draw(1, 7, 3) == mask);
  CHECK(draw(2, 7, 1) != mask);
  CHECK(draw(1, 8, 1) != mask);
  const std::vector<float> first(mask.begin(), mask.begin() + kChannels);
  const std::vector<float> second(mask.begin() + kChannels, mask.begin() + 2 * kChannels);
  CHECK(first != second);
}
