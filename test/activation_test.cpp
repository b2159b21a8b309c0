#include "ops/activation.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "lib/error.h"
#include "ops/activation_ref.h"
#include "ops/conv1x1.h"
#include "ops/pool.h"
#include "test/gradcheck.h"
#include "test/op_test.h"

using namespace mbconv;
using namespace mbconv::test;
using ops::Activation;

namespace {

// Activations of one ISA level live inside its kernels. f(z) and f'(z), computed alone, are read
// off 1x1 convolutions of kLane channels with unit weights, whose finished input is f(z) and whose
// input gradient is f'(z); computed together, off the pool of images of one pixel, with slopes.
class Probe {
 public:
  // z: a multiple of kLane numbers.
  Probe(Isa isa, Activation f, const std::vector<float>& z) {
    const Shape s = Shape::nhwc(1, 1, static_cast<int>(z.size()) / kLane, kLane);
    const size_t lane = static_cast<size_t>(kLane);
    std::vector<float> identity(lane * lane);
    for (size_t i = 0; i < lane; ++i) identity[i * lane + i] = 1;
    const float* ones = memory_.input(std::vector<float>(lane, 1));
    const float* zeros = memory_.input(std::vector<float>(lane));
    const float* input = memory_.input(z);
    const ops::Packed<const float> w{memory_.input(identity), kLane, kLane};
    value = memory_.output<float>(s.size());
    slope = memory_.output<float>(s.size());
    const ops::RowCut one{1, 1, 1};

    ops::Conv1x1Forward forward{};
    forward.x = {{input, s}, ones, zeros, f};
    forward.x_out = {value, s};
    forward.w = w;
    forward.y = {memory_.work<float>(s.size()), s};
    forward.pivot = zeros;
    forward.cut = one;

    ops::Conv1x1Backward backward{};
    backward.dy.g = {memory_.input(std::vector<float>(s.size(), 1)), s};
    backward.x = forward.x;
    backward.wt = w;
    backward.dx = {{slope, s}, {}, forward.x.y, ones, zeros, f, zeros, ones, {}};
    backward.dx.sums = {memory_.work<double>(ops::ChannelSums::size(1, kLane)), 1, kLane};
    backward.dw = {memory_.work<float>(lane * lane), kLane, kLane};
    backward.cut.rows = one;

    const Shape images = Shape::nhwc(s.w, 1, 1, kLane);
    ops::Pool pool{};
    pool.x = {{input, images}, ones, zeros, f};
    pool.cut = ops::pool_cut(images);
    pool.partial = memory_.work<double>(ops::pool_partial_size(images, pool.cut, true));
    pool.mean = memory_.output<float>(s.size());
    pool.slopes = memory_.output<double>(2 * s.size());
    pool.bn_mean = zeros;
    pool.bn_invstd = ones;

    const size_t floats =
        std::max(ops::conv1x1_forward_scratch(s, s), ops::conv1x1_backward_scratch(s, s)) + 15;
    const ops::Context context{isa, &workers(1), memory_.work<float>(floats), floats / 16 * 16};
    ops::conv1x1_forward(context, forward);
    ops::conv1x1_backward(context, backward);
    ops::pool_forward(context, pool);
    for (size_t i = 0; i < z.size(); ++i) {
      value_of_both.push_back(pool.mean[i]);
      slope_of_both.push_back(pool.slopes[i / lane * 2 * lane + i % lane]);
    }
  }

  float *value, *slope;
  std::vector<double> value_of_both, slope_of_both;

 private:
  Memory memory_;
};

// Numbers over [low, high], spread evenly and then densely around zero.
std::vector<float> spread(float low, float high) {
  const int count = small_run() ? 512 : 200000;
  std::vector<float> z;
  for (int i = 0; i < count; ++i) {
    const float t = static_cast<float>(i) / static_cast<float>(count - 1);
    z.push_back(low + (high - low) * t);
    z.push_back((i % 2 == 0 ? low : high) * std::exp2(-20 * t));
  }
  z.resize(z.size() / 16 * 16);
  return z;
}

struct Errors {
  double relative = 0, absolute = 0, slope = 0;
};

// Largest errors against double, relative ones less `per_z` |z|, computed alone and together.
Errors measure(Isa isa, Activation f, float low, float high, double per_z = 0) {
  const std::vector<float> z = spread(low, high);
  const Probe probe(isa, f, z);
  Errors e;
  for (size_t i = 0; i < z.size(); ++i) {
    const double want = ops::ref::activate<double>(f, z[i]);
    const double slope = ops::ref::activate_derivative<double>(f, z[i]);
    for (const double value : {double{probe.value[i]}, probe.value_of_both[i]}) {
      const double error = std::abs(value - want);
      e.absolute = std::max(e.absolute, error);
      if (want != 0)
        e.relative = std::max(e.relative, error / std::abs(want) - per_z * std::abs(z[i]));
    }
    for (const double got : {double{probe.slope[i]}, probe.slope_of_both[i]})
      e.slope = std::max(e.slope, std::abs(got - slope));
  }
  return e;
}

}  // namespace

// The errors that ops/vmath.h states, over the range in which e^-z is a normal float.
TEST_CASE("activation: matches reference") {
  for_each_level(ops::conv1x1_forward_variants(), [](Isa isa) {
    // Far below zero, sigmoid is e^z: the relative error of the exponential and of two roundings.
    const Errors exponential = measure(isa, Activation::sigmoid, -87, -17, 1.3e-8);
    CHECK(exponential.relative < 3e-7 + 1.2e-7);
    const Errors sigmoid = measure(isa, Activation::sigmoid, -87, 87);
    CHECK(sigmoid.absolute < 2e-7);
    CHECK(sigmoid.slope < 2e-7);
    const Errors swish = measure(isa, Activation::swish, -87, 87, 1.3e-8);
    CHECK(swish.relative < 3e-7 + 1.2e-7);
    CHECK(swish.slope < 3e-7);
    for (const Activation f : {Activation::linear, Activation::relu, Activation::relu6}) {
      CAPTURE(std::string(name(f)));
      const Errors exact = measure(isa, f, -20, 20);
      CHECK(exact.absolute == 0);
      CHECK(exact.slope == 0);
    }
    const Errors leaky = measure(isa, Activation::leaky_relu, -20, 20);
    CHECK(leaky.relative < 1.2e-7);
    CHECK(leaky.slope < 2e-9);
  });
}

TEST_CASE("activation: beyond the range of the exponential values stay finite and saturate") {
  const std::vector<float> z = {-87.5f, -100, -1e4f, -1e30f, 87.5f, 100, 1e4f, 1e30f,
                                -88,    -200, -1e5f, -1e20f, 88,    200, 1e5f, 1e20f};
  for_each_level(ops::conv1x1_forward_variants(), [&](Isa isa) {
    const Probe swish(isa, Activation::swish, z), sigmoid(isa, Activation::sigmoid, z);
    for (size_t i = 0; i < z.size(); ++i) {
      CAPTURE(z[i]);
      CHECK(sigmoid.value[i] == doctest::Approx(z[i] > 0 ? 1 : 0).epsilon(1e-30));
      CHECK(sigmoid.value_of_both[i] == doctest::Approx(z[i] > 0 ? 1 : 0).epsilon(1e-30));
      for (const double slope : {double{swish.slope[i]}, swish.slope_of_both[i]})
        CHECK(slope == doctest::Approx(z[i] > 0 ? 1 : 0).epsilon(1e-6));
      for (const double value : {double{swish.value[i]}, swish.value_of_both[i]}) {
        if (z[i] > 0) CHECK(value == z[i]);
        // The clamped exponential leaves z e^-87 there.
        if (z[i] < 0) CHECK(std::abs(value) <= std::abs(z[i]) * 2e-38);
      }
    }
  });
}

TEST_CASE("activation: NaN comes out as NaN") {
  std::vector<float> z(2 * kLane, 1.0f);
  for (size_t i = 0; i < z.size(); i += 3) z[i] = std::numeric_limits<float>::quiet_NaN();
  for_each_level(ops::conv1x1_forward_variants(), [&](Isa isa) {
    for (const Activation f : ops::kActivations) {
      CAPTURE(std::string(name(f)));
      const Probe probe(isa, f, z);
      const bool smooth = f == Activation::swish || f == Activation::sigmoid;
      for (size_t i = 0; i < z.size(); ++i) {
        const bool nan = std::isnan(z[i]);
        CHECK(std::isnan(probe.value[i]) == nan);
        CHECK(std::isnan(probe.value_of_both[i]) == nan);
        // The slopes of the others are constants on either side of a kink.
        CHECK(std::isnan(probe.slope[i]) == (smooth && nan));
        CHECK(std::isnan(probe.slope_of_both[i]) == (smooth && nan));
      }
    }
  });
}

TEST_CASE("activation: gradient") {
  for (const Activation f : ops::kActivations) {
    CAPTURE(std::string(name(f)));
    std::vector<double> z = {-7.3, -3.1, -1.3, -0.6, -0.05, 0.04, 0.8, 2.2, 5.1, 6.4, 9.7};
    std::vector<double> slopes, ones(z.size(), 1.0);
    for (const double v : z) slopes.push_back(ops::ref::activate_derivative(f, v));
    check_gradient("f'", z, slopes, [&] {
      std::vector<double> values;
      for (const double v : z) values.push_back(ops::ref::activate(f, v));
      return dot(values, ones);
    });
  }
}

TEST_CASE("activation: names") {
  for (const Activation f : ops::kActivations) CHECK(ops::parse_activation(name(f)) == f);
  CHECK_THROWS_WITH_AS(
      ops::parse_activation("gelu"),
      ("unknown activation 'gelu'; expected one of " + ops::activation_names()).c_str(), Error);
}
