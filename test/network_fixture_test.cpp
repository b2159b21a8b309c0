// The whole network against timm's in fp64: test/data/make_network_fixtures.py made the fixtures
// and proved that the framework's own fp32 is ten times inside each of these tolerances.

#include "test/network_fixture.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "net/trainer.h"
#include "test/levels.h"

using namespace mbconv;
using namespace mbconv::net;

namespace {

constexpr double kLogits = 1e-4, kGradient = 1e-3, kRunning = 1e-3, kLoss = 1e-3, kDecayTerm = 1e-5;
// A gradient is compared on the scale of its own norm, or of this part of all gradients' norm.
constexpr double kFloor = 1e-4;

class Fixture {
 public:
  explicit Fixture(const std::string& name)
      : file_(io::read_safetensors("test/data/network/" + name)) {}
  const double* operator[](const std::string& key) const {
    const NamedTensor* tensor = file_.find(key);
    if (tensor == nullptr || tensor->dtype != Dtype::f64)
      throw Error("the fixture lacks '", key, "'");
    return tensor->values<double>();
  }
  bool has(const std::string& key) const { return file_.find(key) != nullptr; }
  int64_t count(const std::string& key) const { return file_.find(key)->count(); }
  const std::map<std::string, std::string>& metadata() const { return file_.metadata; }

 private:
  TensorFile file_;
};

double relative_distance(EfficientNet& network, int images, const double* expected) {
  double error = 0, norm = 0;
  for (int n = 0; n < images; ++n) {
    for (const float logit : network.logits(n)) {
      error += (logit - *expected) * (logit - *expected);
      norm += *expected * *expected;
      ++expected;
    }
  }
  return std::sqrt(error / norm);
}

// Norm of the difference between x and the fixture's tensor, or its estimate from projections.
double distance(const Fixture& fixture, const std::string& kind, const std::string& name,
                const std::vector<double>& x, uint64_t sample) {
  double error = 0;
  if (fixture.has(kind + "/" + name)) {
    const double* expected = fixture[kind + "/" + name];
    for (size_t i = 0; i < x.size(); ++i) error += (x[i] - expected[i]) * (x[i] - expected[i]);
    return std::sqrt(error);
  }
  const double* expected = fixture[kind + "_projections/" + name];
  const std::vector<double> p = test::projections(x, sample);
  for (size_t k = 0; k < p.size(); ++k) error += (p[k] - expected[k]) * (p[k] - expected[k]);
  return std::sqrt(error / test::kProjections);
}

std::vector<double> widened(const NamedTensor& t) {
  return {t.values<float>(), t.values<float>() + t.count()};
}

// Gradients (with the decay term, as the fixture has them) and running statistics of the first
// step.
void check_first_step(const Fixture& fixture, const Parameters& parameters,
                      const TensorFile& initial, double decay) {
  const double* norms = fixture["gradient_norms"];
  const double* running_norms = fixture["running_norms"];
  double all = 0;
  for (int64_t i = 0; i < fixture.count("gradient_norms"); ++i) all += norms[i] * norms[i];
  const TensorFile now{parameters.save(), {}};
  uint64_t trainable = 0, running = 0;
  for (size_t id = 0; id < parameters.list().size(); ++id) {
    const Parameter& p = parameters.list()[id];
    CAPTURE(p.name);
    if (!p.trainable) {
      const double error = distance(fixture, "running", p.name, widened(*now.find(p.name)),
                                    test::kRunningSamples + running);
      CHECK(error <= kRunning * running_norms[running]);
      ++running;
      continue;
    }
    std::vector<double> g = widened(parameters.gradient(id));
    const float* w = initial.find(p.name)->values<float>();
    for (size_t i = 0; i < g.size(); ++i) g[i] += p.decayed ? 2 * decay * w[i] : 0.0;
    const double scale = std::max(norms[trainable], kFloor * std::sqrt(all));
    CHECK(distance(fixture, "gradient", p.name, g, trainable) <= kGradient * scale);
    ++trainable;
  }
  CHECK(trainable == static_cast<uint64_t>(fixture.count("gradient_norms")));
  CHECK(running == static_cast<uint64_t>(fixture.count("running_norms")));
}

void check_b0(Isa isa, bool expand, int resolution) {
  constexpr double kDecay = 1e-5;
  constexpr float kLr = 0.002f, kMomentum = 0.9f, kSmoothing = 0.1f;
  const Fixture fixture(std::string("b0_") + (expand ? "expand_" : "published_") +
                        std::to_string(resolution) + ".safetensors");
  Workers workers(2);
  ModelConfig model;
  model.resolution = resolution;
  model.dropout = 0;
  model.classes = test::kFixtureClasses;
  model.expand_at_ratio_1 = expand;
  EfficientNet network(network_config(model), test::kFixtureBatch, Mode::training, workers, isa);
  TensorFile initial{network.parameters().save(), {}};
  test::generate_b0(initial.tensors, expand);
  network.parameters().load(initial);
  const std::vector<float> images = test::b0_images(resolution);
  const std::vector<int32_t> labels = {1, 4, 7, 0};

  for (int step = 0; step < 4; ++step) {
    CAPTURE(step);
    if (step == 3) {
      network.infer(images.data());
      CHECK(relative_distance(network, test::kFixtureBatch, fixture["eval_logits"]) < kLogits);
    }
    network.forward(images.data(), 0, step);
    const BatchResult batch = network.backward(images.data(), labels, kSmoothing);
    const double loss = batch.cross_entropy + kDecay * network.parameters().sum_of_squares();
    CHECK(batch.cross_entropy == doctest::Approx(fixture["cross_entropies"][step]).epsilon(kLoss));
    CHECK(loss == doctest::Approx(fixture["losses"][step]).epsilon(kLoss));
    if (step == 0) {
      CHECK(relative_distance(network, test::kFixtureBatch, fixture["logits"]) < kLogits);
      check_first_step(fixture, network.parameters(), initial, kDecay);
    }
    network.parameters().update(network.context(), kLr, kMomentum, kDecay);
  }
}

void check_narrow(Isa isa) {
  constexpr int kBatch = 8, kSteps = 10;
  constexpr double kDecay = 1e-3;
  const TensorFile start = io::read_safetensors("test/data/network/narrow.safetensors");
  const Fixture fixture("narrow_steps.safetensors");
  const int64_t first = std::stoll(fixture.metadata().at("first_picture"));
  Workers workers(2);
  EfficientNet network(network_config(checkpoint_info(start)->model), kBatch, Mode::training,
                       workers, isa);
  network.parameters().load(start);
  const auto check_eval = [&](const char* key, double tolerance) {
    network.infer(test::pictures(first, kBatch).data());
    CHECK(relative_distance(network, kBatch, fixture[key]) < tolerance);
  };
  check_eval("eval_logits_before", kLogits);
  for (int step = 0; step <= kSteps; ++step) {
    CAPTURE(step);
    if (step == kSteps) check_eval("eval_logits_after", kLoss);
    const std::vector<float> images = test::pictures(first + step * kBatch, kBatch);
    std::vector<int32_t> labels;
    for (int n = 0; n < kBatch; ++n)
      labels.push_back(static_cast<int32_t>((first + step * kBatch + n) % 10));
    network.forward(images.data(), 0, step);
    const BatchResult batch = network.backward(images.data(), labels, 0.1f);
    const double decay_term = kDecay * network.parameters().sum_of_squares();
    CHECK(batch.cross_entropy == doctest::Approx(fixture["cross_entropies"][step]).epsilon(kLoss));
    CHECK(decay_term == doctest::Approx(fixture["decay_terms"][step]).epsilon(kDecayTerm));
    CHECK(batch.cross_entropy + decay_term ==
          doctest::Approx(fixture["losses"][step]).epsilon(kLoss));
    network.parameters().update(network.context(), 0.02f, 0.9f, static_cast<float>(kDecay));
  }
}

template <class Body>
void for_each_isa(const Body& body) {
  for (const Isa isa : kIsaLevels) {
    CAPTURE(std::string(name(isa)));
    if (test::decide(isa, name(isa)) == test::Decision::run) body(isa);
  }
}

}  // namespace

TEST_CASE("network: B0 as published agrees with timm in fp64, at 64 pixels and at odd sizes") {
  for_each_isa([](Isa isa) {
    check_b0(isa, false, 64);
    check_b0(isa, false, 65);
  });
}

TEST_CASE("network: B0 with the expand convolution at ratio 1 agrees with timm in fp64") {
  for_each_isa([](Isa isa) {
    check_b0(isa, true, 64);
    check_b0(isa, true, 65);
  });
}

TEST_CASE("network: ten steps of a trained narrow network agree with fp64") {
  for_each_isa(check_narrow);
}
