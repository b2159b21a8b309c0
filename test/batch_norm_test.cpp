#include "ops/batch_norm.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "lib/error.h"
#include "ops/batch_norm_ref.h"
#include "test/gradcheck.h"
#include "test/inputs.h"
#include "test/op_test.h"
#include "test/oracle.h"

using namespace mbconv;
using namespace mbconv::test;

namespace {

// A batch norm over C channels with all its vectors in guarded memory.
class Layer {
 public:
  Memory memory;
  ops::BatchNorm bn{};
  Shape shape;

  Layer(int n, int h, int w, int c)
      : shape(Shape::nhwc(n, h, w, c)), in(memory, Values::reals, 23) {
    bn.channels = c;
    bn.padded = shape.padded_c();
    bn.gamma = in.vector(shape, 0.5f, 1.5f);
    bn.beta = in.vector(shape, -0.5f, 0.5f);
    bn.running_mean = updated(-0.5f, 0.5f);
    bn.running_var = updated(0.5f, 1.5f);
    bn.dgamma = updated(-1, 1);
    bn.dbeta = updated(-1, 1);
    // Vectors of padded floats with zeros past the channels, which the op leaves alone.
    for (float** v : {&bn.mean, &bn.invstd, &bn.scale, &bn.shift, &bn.a, &bn.b, &bn.d}) {
      *v = memory.accumulated(std::vector<float>(static_cast<size_t>(bn.padded)));
    }
  }

  // A tensor whose channels have means and deviations of their own, far from those running.
  View<const float> tensor(float offset = 0) {
    const auto value = [&](int c) {
      return offset + static_cast<float>(c % 5) - 2 +
             (0.3f + 0.1f * static_cast<float>(c % 7)) * in.draw(-2, 2);
    };
    return {memory.input(in.values(shape, value)), shape};
  }

  std::vector<double> channel(View<const float> y, int c) const {
    std::vector<double> out;
    for_each_element(y, [&](float v, size_t, int, int channel) {
      if (channel == c) out.push_back(v);
    });
    return out;
  }

  // Sums of y - pivot and its square, spread over slots as a pass would leave them.
  ops::ChannelSums sums_of(View<const float> y, const std::vector<float>& pivot, int slots) {
    const ops::ChannelSums sums{memory.work<double>(ops::ChannelSums::size(slots, bn.padded)),
                                slots, bn.padded};
    std::fill_n(sums.data, ops::ChannelSums::size(slots, bn.padded), 0.0);
    for_each_element(y, [&](float v, size_t i, int, int c) {
      double* slot = sums.slot(static_cast<int>(i) % slots);
      const double d = double{v} - pivot[static_cast<size_t>(c)];
      slot[c] += d;
      slot[bn.padded + c] += d * d;
    });
    return sums;
  }

  std::vector<float> copy(const float* v) const { return {v, v + bn.padded}; }

  void check_padding() {
    for (const float* v : {bn.running_mean, bn.running_var, bn.dgamma, bn.dbeta, bn.mean, bn.invstd,
                           bn.scale, bn.shift, bn.a, bn.b, bn.d}) {
      CHECK(padding_is_zero(v, 1, bn.channels, bn.padded));
    }
    memory.check();
  }

  Inputs in;

 private:
  float* updated(float low, float high) {
    return memory.accumulated(
        in.matrix(1, shape.c, shape.padded_c(), [&](int) { return in.draw(low, high); }));
  }
};

// Doubles rounded once to float, from inputs of moderate size.
doctest::Approx near(double want) {
  return doctest::Approx(want).epsilon(2e-7);
}

const ops::BatchNormOptions kOptions{0.9, 1e-3};

}  // namespace

TEST_CASE("batch_norm: matches reference") {
  for (const int c : {1, 7, 16, 24, 40}) {
    CAPTURE(c);
    Layer layer(3, 4, 5, c);
    const ops::BatchNorm& bn = layer.bn;
    const View<const float> y = layer.tensor();
    const std::vector<float> mean0 = layer.copy(bn.running_mean), var0 = layer.copy(bn.running_var);
    const ops::ChannelSums sums = layer.sums_of(y, mean0, 3);
    REQUIRE(ops::batch_norm_forward(bn, sums, bn.running_mean, y.shape.rows(), kOptions, true));
    for (int i = 0; i < c; ++i) {
      CAPTURE(i);
      const std::vector<double> values = layer.channel(y, i);
      const double m = static_cast<double>(values.size());
      const auto s = ops::ref::batch_norm_statistics(values);
      const std::vector<double> z =
          ops::ref::batch_norm_forward<double>(values, s, bn.gamma[i], bn.beta[i], kOptions.eps);
      CHECK(bn.mean[i] == near(s.mean));
      CHECK(bn.invstd[i] == near(1 / std::sqrt(s.var + kOptions.eps)));
      for (size_t p = 0; p < z.size(); ++p) {
        CHECK(std::abs(double{bn.scale[i]} * values[p] + bn.shift[i] - z[p]) < 2e-6);
      }
      const size_t at = static_cast<size_t>(i);
      CHECK(bn.running_mean[i] == near(0.9 * mean0[at] + 0.1 * s.mean));
      CHECK(bn.running_var[i] == near(0.9 * var0[at] + 0.1 * s.var * m / (m - 1)));
    }
    layer.check_padding();
  }
}

TEST_CASE("batch_norm: without update_running the running statistics stay") {
  Layer layer(2, 3, 3, 24);
  const View<const float> y = layer.tensor();
  const std::vector<float> mean0 = layer.copy(layer.bn.running_mean);
  const std::vector<float> var0 = layer.copy(layer.bn.running_var);
  const ops::ChannelSums sums = layer.sums_of(y, mean0, 1);
  REQUIRE(ops::batch_norm_forward(layer.bn, sums, mean0.data(), y.shape.rows(), kOptions, false));
  CHECK(layer.copy(layer.bn.running_mean) == mean0);
  CHECK(layer.copy(layer.bn.running_var) == var0);
}

TEST_CASE("batch_norm: a single value has variance 0, not NaN") {
  Layer layer(1, 1, 1, 8);
  const View<const float> y = layer.tensor();
  const std::vector<float> pivot = layer.copy(y.data);
  const ops::ChannelSums sums = layer.sums_of(y, pivot, 1);
  REQUIRE(ops::batch_norm_forward(layer.bn, sums, pivot.data(), 1, kOptions, true));
  for (int c = 0; c < 8; ++c) {
    CHECK(layer.bn.mean[c] == y.data[c]);
    CHECK(layer.bn.invstd[c] == near(1 / std::sqrt(kOptions.eps)));
    CHECK(std::isfinite(layer.bn.running_var[c]));
  }
}

TEST_CASE("batch_norm: inference folds the running statistics") {
  Layer layer(1, 1, 1, 40);
  const ops::BatchNorm& bn = layer.bn;
  ops::batch_norm_inference(bn, kOptions);
  for (int c = 0; c < 40; ++c) {
    const double invstd = 1 / std::sqrt(bn.running_var[c] + kOptions.eps);
    CHECK(bn.mean[c] == bn.running_mean[c]);
    CHECK(bn.invstd[c] == near(invstd));
    CHECK(bn.scale[c] == near(bn.gamma[c] * invstd));
    CHECK(std::abs(bn.shift[c] - (bn.beta[c] - bn.running_mean[c] * bn.gamma[c] * invstd)) < 2e-7);
  }
  layer.check_padding();
}

TEST_CASE("batch_norm: the backward fold gives the reference's dy") {
  for (const int c : {1, 16, 40}) {
    CAPTURE(c);
    Layer layer(3, 4, 5, c);
    const ops::BatchNorm& bn = layer.bn;
    const View<const float> y = layer.tensor(), dz = layer.in.tensor(layer.shape);
    const std::vector<float> pivot = layer.copy(bn.running_mean);
    const ops::ChannelSums forward = layer.sums_of(y, pivot, 2);
    REQUIRE(ops::batch_norm_forward(bn, forward, pivot.data(), y.shape.rows(), kOptions, true));
    const std::vector<float> dgamma0 = layer.copy(bn.dgamma), dbeta0 = layer.copy(bn.dbeta);

    const ops::ChannelSums sums = layer.sums_of(dz, std::vector<float>(pivot.size()), 2);
    // The second sum is of dz * xhat.
    std::fill_n(sums.slot(0) + bn.padded, bn.padded, 0.0);
    std::fill_n(sums.slot(1) + bn.padded, bn.padded, 0.0);
    for_each_element(y, [&](float v, size_t i, int n, int channel) {
      const int p = static_cast<int>(i) / c % y.shape.pixels();
      const double g = dz.pixel(n, 0, p)[channel];
      sums.slot(n % 2)[bn.padded + channel] +=
          g * (double{v} - bn.mean[channel]) * bn.invstd[channel];
    });
    ops::batch_norm_backward(bn, sums, y.shape.rows());
    for (int i = 0; i < c; ++i) {
      CAPTURE(i);
      const std::vector<double> values = layer.channel(y, i), g = layer.channel(dz, i);
      const auto s = ops::ref::batch_norm_statistics(values);
      const size_t at = static_cast<size_t>(i);
      double dgamma = dgamma0[at], dbeta = dbeta0[at];
      const std::vector<double> dy = ops::ref::batch_norm_backward<double>(
          g, values, s, bn.gamma[i], kOptions.eps, dgamma, dbeta);
      CHECK(std::abs(bn.dgamma[i] - dgamma) < 1e-5);
      CHECK(std::abs(bn.dbeta[i] - dbeta) < 1e-5);
      for (size_t p = 0; p < dy.size(); ++p) {
        const double folded = bn.a[i] * g[p] - bn.b[i] - bn.d[i] * (values[p] - bn.mean[i]);
        CHECK(std::abs(folded - dy[p]) < 5e-6);
      }
    }
    layer.check_padding();
  }
}

TEST_CASE("batch_norm: gradient") {
  Rng rng(29, 0, 0, Purpose::synthetic);
  std::vector<double> y(12), dz(12);
  for (double& v : y) v = rng.uniform(-1, 1);
  for (double& v : dz) v = rng.uniform(-1, 1);
  std::vector<double> gamma = {1.3}, beta = {-0.2}, dgamma = {0}, dbeta = {0};
  constexpr double kEps = 1e-3;
  const auto loss = [&] {
    const auto s = ops::ref::batch_norm_statistics(y);
    return dot(ops::ref::batch_norm_forward(y, s, gamma[0], beta[0], kEps), dz);
  };
  const auto s = ops::ref::batch_norm_statistics(y);
  const std::vector<double> dy =
      ops::ref::batch_norm_backward(dz, y, s, gamma[0], kEps, dgamma[0], dbeta[0]);
  check_gradient("dy", y, dy, loss);
  check_gradient("dgamma", gamma, dgamma, loss);
  check_gradient("dbeta", beta, dbeta, loss);
}

TEST_CASE("batch_norm: a pivot far from the mean is refused, and one sweep repairs it") {
  Layer layer(2, 5, 7, 24);
  const ops::BatchNorm& bn = layer.bn;
  const View<const float> y = layer.tensor(1000);
  const std::vector<float> mean0 = layer.copy(bn.running_mean), var0 = layer.copy(bn.running_var);
  const ops::RowCut cut{1, 2, 2};
  const ops::ChannelSums sums = layer.sums_of(y, mean0, cut.items());
  CHECK_FALSE(ops::batch_norm_forward(bn, sums, bn.running_mean, y.shape.rows(), kOptions, true));
  // Only the mean was written.
  CHECK(layer.copy(bn.running_mean) == mean0);
  CHECK(layer.copy(bn.running_var) == var0);
  CHECK(layer.copy(bn.invstd) == std::vector<float>(layer.copy(bn.invstd).size()));
  ops::channel_sums(workers(1), y, cut, bn.mean, sums);
  REQUIRE(ops::batch_norm_forward(bn, sums, bn.mean, y.shape.rows(), kOptions, true));
  for (int c = 0; c < 24; ++c) {
    const auto s = ops::ref::batch_norm_statistics(layer.channel(y, c));
    CHECK(bn.mean[c] == near(s.mean));
    CHECK(bn.invstd[c] == near(1 / std::sqrt(s.var + kOptions.eps)));
    CHECK(bn.running_mean[c] == near(0.9 * mean0[static_cast<size_t>(c)] + 0.1 * s.mean));
  }
  layer.check_padding();
}

TEST_CASE("batch_norm: the guard's threshold is 1000 variances") {
  const auto trusted = [](double distance) {
    Layer layer(1, 1, 1, 1);
    // n = 100 values of variance 1 at a mean of `distance` from the pivot.
    std::vector<double> data(ops::ChannelSums::size(1, layer.bn.padded));
    data[0] = 100 * distance;
    data[static_cast<size_t>(layer.bn.padded)] = 100 * (1 + distance * distance);
    const float pivot[16] = {};
    return ops::batch_norm_forward(layer.bn, {data.data(), 1, layer.bn.padded}, pivot, 100,
                                   kOptions, false);
  };
  CHECK(trusted(31.5));
  CHECK(trusted(-31.5));
  CHECK_FALSE(trusted(31.8));
  CHECK_FALSE(trusted(-31.8));
}

TEST_CASE("batch_norm: slots are added in their order, to the bit, for any thread count") {
  for (const auto& [slots, channels] : {std::pair{1, 16}, {2, 16}, {7, 48}, {1500, 112}}) {
    CAPTURE(slots);
    Memory memory;
    Inputs in(memory, Values::reals, 37);
    const ops::ChannelSums sums = in.sums(slots, channels);
    const size_t size = ops::ChannelSums::size(slots, channels);
    Rng rng(41, 0, 0, Purpose::synthetic);
    std::vector<double> values(size), want(2 * static_cast<size_t>(channels));
    for (size_t i = 0; i < size; ++i) {
      values[i] = rng.uniform(-1, 1) * std::exp2(rng.uniform(0, 20));
      double& sum = want[i % want.size()];
      sum = i < want.size() ? values[i] : sum + values[i];
    }
    for (const int threads : {1, 2, 3, 16}) {
      std::copy(values.begin(), values.end(), sums.data);
      const ops::ChannelSums all = ops::sum_slots(workers(threads), sums);
      CHECK(all.slots == 1);
      CHECK(all.channels == channels);
      CHECK(std::equal(want.begin(), want.end(), all.slot(0)));
      memory.check();
    }
  }
}

TEST_CASE("batch_norm: channel_sums writes only its output, for any layout, cut and thread count") {
  for (const Shape& s :
       {Shape::nhwc(3, 5, 7, 24), Shape::wide(3, 5, 7, 96), Shape::nhwc(5, 2, 3, 7)}) {
    for (const ops::RowCut& cut : {ops::RowCut{1, 4, s.n}, ops::RowCut{2, 1, (s.n + 1) / 2}}) {
      Memory memory;
      Inputs in(memory, Values::reals, 31);
      const View<const float> y = in.tensor(s);
      const float* pivot = in.vector(s, -0.5f, 0.5f);
      const ops::ChannelSums sums = in.sums(cut.items(), s.padded_c());
      std::vector<std::byte> first;
      for (const int threads : {1, 3, 16}) {
        memory.reset(threads == 1 ? Fill::nan : Fill::huge);
        ops::channel_sums(workers(threads), y, cut, pivot, sums);
        memory.check();
        check_close(
            "sums", unpack(sums, s.c),
            batch_sums(unpack<Tracked>(y), pivot, cut.items(), slots_of_rows(cut, s, s.pixels())),
            1e-6);
        CHECK(padding_is_zero(sums, s.c));
        if (first.empty()) first = memory.results();
        CHECK(memory.results() == first);
      }
      CHECK_THROWS_AS(ops::channel_sums(workers(1), y, cut, pivot, {sums.data, 1, sums.channels}),
                      Error);
    }
  }
}
