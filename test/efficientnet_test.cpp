#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lib/error.h"
#include "net/trainer.h"
#include "test/network_fixture.h"
#include "test/network_support.h"

using namespace mbconv;
using namespace mbconv::net;

namespace {

struct Step {
  double loss;
  std::vector<float> logits;
  std::vector<NamedTensor> gradients;
};

Step one_step(const ModelConfig& model, int batch, int threads, Isa isa, uint64_t seed = 1) {
  Workers workers(threads);
  EfficientNet network(network_config(model), batch, Mode::training, workers, isa);
  // The values of the fixtures, whose batch-norm gains make a fresh network less chaotic.
  TensorFile initial{network.parameters().save(), {}};
  test::generate_b0(initial.tensors, model.expand_at_ratio_1);
  network.parameters().load(initial);
  const test::Images images(model, batch, seed);
  network.forward(images.pixels.data(), 7, 0);
  Step step;
  step.loss = network.backward(images.pixels.data(), images.labels, 0.1f).cross_entropy;
  step.logits = network.logits(batch - 1);
  for (size_t id = 0; id < network.parameters().list().size(); ++id) {
    if (network.parameters().list()[id].trainable)
      step.gradients.push_back(network.parameters().gradient(id));
  }
  return step;
}

double norm(const NamedTensor& t) {
  double sum = 0;
  for (int64_t i = 0; i < t.count(); ++i)
    sum += double{t.values<float>()[i]} * t.values<float>()[i];
  return std::sqrt(sum);
}

double distance(const NamedTensor& a, const NamedTensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.count(); ++i) {
    const double d = double{a.values<float>()[i]} - b.values<float>()[i];
    sum += d * d;
  }
  return std::sqrt(sum);
}

// The gradient furthest from the expected one, as a part of its norm or of 1e-4 of that of all
// together; infinitely far if it has a NaN.
struct Furthest {
  double distance = -1;
  std::string name;
};
Furthest furthest(const Step& step, const Step& expected) {
  REQUIRE(step.gradients.size() == expected.gradients.size());
  double all = 0;
  for (const NamedTensor& g : expected.gradients) all += norm(g) * norm(g);
  Furthest worst;
  for (size_t i = 0; i < expected.gradients.size(); ++i) {
    const double scale = std::max(norm(expected.gradients[i]), 1e-4 * std::sqrt(all));
    double d = distance(step.gradients[i], expected.gradients[i]) / scale;
    if (!std::isfinite(d)) d = INFINITY;
    if (d > worst.distance) worst = {d, expected.gradients[i].name};
  }
  return worst;
}

}  // namespace

TEST_CASE("efficientnet: equal bits for 1, 2, 3, 16 and 64 threads") {
  const ModelConfig model = test::narrow_model(33);
  const Step expected = one_step(model, 5, 1, host_isa());
  for (const int threads : {2, 3, 16, 64}) {
    CAPTURE(threads);
    const Step step = one_step(model, 5, threads, host_isa());
    CHECK(step.loss == expected.loss);
    CHECK(step.logits == expected.logits);
    for (size_t i = 0; i < step.gradients.size(); ++i) {
      CAPTURE(step.gradients[i].name);
      CHECK(step.gradients[i].bytes == expected.gradients[i].bytes);
    }
  }
}

TEST_CASE(
    "efficientnet: every level gives the same loss and gradients, with every activation and "
    "topology") {
  for (const ops::Activation activation : ops::kActivations) {
    for (const bool expand : {false, true}) {
      CAPTURE(std::string(ops::name(activation)));
      CAPTURE(expand);
      ModelConfig model = test::narrow_model();
      model.activation = activation;
      model.expand_at_ratio_1 = expand;
      // Levels round differently, and at a kink a rounding turns a slope on or off: of four batches
      // one must meet none.
      const bool smooth = activation == ops::Activation::swish ||
                          activation == ops::Activation::sigmoid ||
                          activation == ops::Activation::linear;
      const uint64_t batches = smooth ? 1 : 4;
      const double tolerance = smooth ? 2e-3 : 5e-3;
      for (const Isa isa : {Isa::avx2, Isa::avx512}) {
        if (test::decide(isa, name(isa)) != test::Decision::run) continue;
        CAPTURE(std::string(name(isa)));
        Furthest best{INFINITY, {}};
        for (uint64_t seed = 1; seed <= batches && best.distance >= tolerance; ++seed) {
          const Step expected = one_step(model, 4, 2, Isa::generic, seed);
          const Step step = one_step(model, 4, 2, isa, seed);
          CHECK(step.loss == doctest::Approx(expected.loss).epsilon(1e-4));
          const Furthest worst = furthest(step, expected);
          if (worst.distance <= best.distance) best = worst;
        }
        CAPTURE(best.name);
        CHECK(best.distance < tolerance);
      }
    }
  }
}

TEST_CASE("efficientnet: gradients are the slopes of the loss") {
  // Along a parameter's gradient the loss must change by the gradient's norm. fp32, so coarse; the
  // fixtures of an independent framework are exact.
  ModelConfig model = test::narrow_model();
  model.dropout = 0.3;
  Workers workers(2);
  EfficientNet network(network_config(model), 8, Mode::training, workers, host_isa());
  Parameters& p = network.parameters();
  p.initialise(2);
  const test::Images images(model, 8);
  network.forward(images.pixels.data(), 1, 0);
  network.backward(images.pixels.data(), images.labels, 0.1f);
  int checked = 0;
  for (size_t id = 0; id < p.list().size(); ++id) {
    const Parameter& parameter = p.list()[id];
    if (!parameter.trainable) continue;
    const double g = norm(p.gradient(id));
    if (g < 1e-3) continue;  // the biases before a linear batch norm have none
    CAPTURE(parameter.name);
    const std::vector<float> saved(p.w(id), p.w(id) + parameter.size);
    const double step = 0.01 / g;
    const auto loss_at = [&](double t) {
      for (size_t i = 0; i < parameter.size; ++i)
        p.w(id)[i] = static_cast<float>(saved[i] + t * p.g(id)[i] / g);
      network.forward(images.pixels.data(), 1, 0);
      return network.loss(images.labels, 0.1f).cross_entropy;
    };
    const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
    std::copy(saved.begin(), saved.end(), p.w(id));
    CHECK(slope == doctest::Approx(g).epsilon(0.05));
    ++checked;
  }
  CHECK(checked > 100);
}

TEST_CASE("efficientnet: inference of an image does not depend on its neighbours or the batch") {
  const ModelConfig model = test::narrow_model();
  Workers workers(2);
  const test::Images images(model, 6);
  const size_t size = images.pixels.size() / 6;
  EfficientNet six(network_config(model), 6, Mode::inference, workers, host_isa());
  EfficientNet one(network_config(model), 1, Mode::inference, workers, host_isa());
  six.parameters().initialise(3);
  one.parameters().initialise(3);
  six.infer(images.pixels.data());
  for (int n = 0; n < 6; ++n) {
    one.infer(images.pixels.data() + static_cast<size_t>(n) * size);
    const auto a = six.logits(n), b = one.logits(0);
    for (size_t k = 0; k < a.size(); ++k) CHECK(a[k] == doctest::Approx(b[k]).epsilon(1e-4));
  }
}

TEST_CASE("efficientnet: inference of an image does not depend on its place in the batch") {
  ModelConfig model = test::narrow_model(80);
  model.width = 0.5;
  Workers workers(2);
  test::Images images(model, 5);
  const auto size = static_cast<ptrdiff_t>(images.pixels.size() / 5);
  for (int n = 1; n < 5; ++n)
    std::copy_n(images.pixels.begin(), size, images.pixels.begin() + n * size);
  EfficientNet network(network_config(model), 5, Mode::inference, workers, host_isa());
  network.parameters().initialise(3);
  network.infer(images.pixels.data());
  for (int n = 1; n < 5; ++n) CHECK(network.logits(n) == network.logits(0));
}

TEST_CASE("efficientnet: inference in a network planned for training is the same") {
  ModelConfig model = test::narrow_model(64);
  model.width = 0.5;
  Workers workers(2);
  const test::Images images(model, 3);
  EfficientNet training(network_config(model), 3, Mode::training, workers, host_isa());
  EfficientNet inference(network_config(model), 3, Mode::inference, workers, host_isa());
  training.parameters().initialise(3);
  inference.parameters().initialise(3);
  training.infer(images.pixels.data());
  inference.infer(images.pixels.data());
  for (int n = 0; n < 3; ++n) CHECK(training.logits(n) == inference.logits(n));
  CHECK(inference.memory().bytes() < training.memory().bytes());
}

TEST_CASE("efficientnet: inference takes the parameters as they are now") {
  const ModelConfig model = test::narrow_model();
  Workers workers(2);
  const test::Images images(model, 4), others(model, 4, 2);
  EfficientNet training(network_config(model), 4, Mode::training, workers, host_isa());
  EfficientNet inference(network_config(model), 4, Mode::inference, workers, host_isa());
  training.parameters().initialise(3);
  inference.parameters().initialise(3);
  TrainOptions options;
  options.lr = 0.01;
  options.warmup_steps = 0;
  options.total_steps = 4;
  Trainer trainer(training, options);
  std::vector<float> before;
  for (int step = 0; step < 3; ++step) {
    CAPTURE(step);
    // Twice, of which the second does not fold again.
    for (const test::Images* pictures : {&others, &images}) {
      training.infer(pictures->pixels.data());
      inference.infer(pictures->pixels.data());
      for (int n = 0; n < 4; ++n) CHECK(training.logits(n) == inference.logits(n));
    }
    CHECK(inference.logits(0) != before);
    before = inference.logits(0);
    trainer.step(images.pixels.data(), images.labels);
    inference.parameters().load({training.parameters().save(), {}});
  }
}

TEST_CASE("efficientnet: dropout depends on seed and step") {
  ModelConfig model = test::narrow_model();
  model.dropout = 0.5;
  Workers workers(2);
  EfficientNet network(network_config(model), 4, Mode::training, workers, host_isa());
  network.parameters().initialise(3);
  const test::Images images(model, 4);
  // The running means, which sums are taken around, move with every pass: equal but for rounding.
  const auto differ = [&](uint64_t seed, int64_t step, const std::vector<float>& from) {
    network.forward(images.pixels.data(), seed, step);
    const std::vector<float> now = network.logits(0);
    float largest = 0;
    for (size_t k = 0; k < now.size(); ++k) largest = std::max(largest, std::abs(now[k] - from[k]));
    return largest > 1e-3f;
  };
  network.forward(images.pixels.data(), 1, 0);
  const std::vector<float> first = network.logits(0);
  CHECK(!differ(1, 0, first));
  CHECK(differ(1, 1, first));
  CHECK(differ(2, 0, first));
}

TEST_CASE("efficientnet: a batch of no images is refused") {
  Workers workers(1);
  CHECK_THROWS_AS(
      EfficientNet(network_config(test::narrow_model()), 0, Mode::inference, workers, Isa::generic),
      Error);
}
