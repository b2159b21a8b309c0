#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "net/checkpoint.h"
#include "test/network_support.h"

using namespace mbconv;
using namespace mbconv::net;

namespace {

// Names, shapes and types of a timm state_dict, in its order.
void check_state_dict(const std::string& path, const ModelConfig& model) {
  std::ifstream in(path);
  REQUIRE(in.good());
  const auto expected = nlohmann::json::parse(in);
  Workers workers(1);
  const EfficientNet network(network_config(model), 1, Mode::inference, workers, Isa::generic);
  const std::vector<NamedTensor> tensors = network.parameters().save();
  REQUIRE(tensors.size() == expected.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    CAPTURE(tensors[i].name);
    CHECK(tensors[i].name == expected[i][0].get<std::string>());
    CHECK(tensors[i].shape == expected[i][1].get<std::vector<int64_t>>());
    const bool counter = tensors[i].name.ends_with("num_batches_tracked");
    CHECK((tensors[i].dtype == (counter ? Dtype::i64 : Dtype::f32)));
    CHECK(expected[i][2].get<std::string>() == (counter ? "I64" : "F32"));
  }
}

ModelConfig named(const char* name) {
  ModelConfig model = published_model(name);
  model.resolution = 32;
  return model;
}

}  // namespace

TEST_CASE("parameters: names, shapes, types and order of timm's state_dict") {
  check_state_dict("test/data/network/b0_state_dict.json", named("b0"));
  check_state_dict("test/data/network/b1_state_dict.json", named("b1"));
  ModelConfig expand = named("b0");
  expand.expand_at_ratio_1 = true;
  check_state_dict("test/data/network/b0_expand_state_dict.json", expand);
}

TEST_CASE("parameters: what is saved loads again, bit for bit, momentum included") {
  Workers workers(2);
  const ModelConfig model = test::narrow_model();
  EfficientNet first(network_config(model), 4, Mode::training, workers, host_isa());
  EfficientNet second(network_config(model), 4, Mode::training, workers, host_isa());
  first.parameters().initialise(3);
  const test::Images images(model, 4);
  first.forward(images.pixels.data(), 1, 0);
  first.backward(images.pixels.data(), images.labels, 0.1f);
  first.parameters().update(first.context(), 0.01f, 0.9f, 1e-5f);

  const CheckpointInfo info{model, 1, 1, {}};
  restore(second, make_checkpoint(first, info), make_state(first, 1));
  const auto a = first.parameters().save(), b = second.parameters().save();
  const auto ma = first.parameters().save_momentum(), mb = second.parameters().save_momentum();
  for (size_t i = 0; i < a.size(); ++i) CHECK(a[i].bytes == b[i].bytes);
  for (size_t i = 0; i < ma.size(); ++i) CHECK(ma[i].bytes == mb[i].bytes);
  CHECK_THROWS_AS(restore(second, make_checkpoint(first, info), make_state(first, 2)), Error);
}

TEST_CASE("checkpoint: the metadata rebuilds the network") {
  Workers workers(1);
  ModelConfig model = test::narrow_model(40, 7);
  model.expand_at_ratio_1 = true;
  model.activation = ops::Activation::relu6;
  model.dropout = 0.1;
  const EfficientNet network(network_config(model), 1, Mode::inference, workers, Isa::generic);
  const TensorFile file = make_checkpoint(network, {model, 1, 42, {{1, 2.5f, 3}, {4, 5, 0.1f}}});
  const auto info = checkpoint_info(file);
  REQUIRE(info);
  CHECK(info->model.name == "b0");
  CHECK(info->model.width == 0.25);
  CHECK(info->model.depth == 1.0);
  CHECK(info->model.dropout == 0.1);
  CHECK(info->model.resolution == 40);
  CHECK(info->model.classes == 7);
  CHECK(info->model.activation == ops::Activation::relu6);
  CHECK(info->model.expand_at_ratio_1);
  CHECK(info->label_offset == 1);
  CHECK(info->step == 42);
  CHECK(info->normalisation.mean == std::array{1.0f, 2.5f, 3.0f});
  CHECK(info->normalisation.stddev == std::array{4.0f, 5.0f, 0.1f});
  CHECK(!info->label_offset_given);
  CHECK(checkpoint_info(make_checkpoint(network, {model, 1, 42, {}, true}))->label_offset_given);
  CHECK(checkpoint_classes(file) == 7);
  CHECK(!checkpoint_info(TensorFile{}));
}

TEST_CASE("parameters: what is not finite is found by name, running statistics and momentum too") {
  Workers workers(1);
  const ModelConfig model = test::narrow_model();
  EfficientNet network(network_config(model), 1, Mode::training, workers, Isa::generic);
  Parameters& parameters = network.parameters();
  parameters.initialise(1);
  CHECK(parameters.not_finite() == "");
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (const char* name : {"conv_stem.weight", "bn2.running_var", "classifier.bias"}) {
      TensorFile file{parameters.save(), {}};
      const TensorFile good = file;
      for (NamedTensor& t : file.tensors) {
        if (t.name == name) t.values<float>()[t.count() - 1] = bad;
      }
      parameters.load(file);
      CHECK(parameters.not_finite() == name);
      parameters.load(good);
      CHECK(parameters.not_finite() == "");
    }
  }
  TensorFile momentum{parameters.save_momentum(), {}};
  momentum.tensors.back().values<float>()[0] = NAN;
  parameters.load_momentum(momentum);
  CHECK(parameters.not_finite() == "classifier.bias");
}

TEST_CASE("parameters: missing, unknown and misshapen tensors are refused by name") {
  Workers workers(1);
  const ModelConfig model = test::narrow_model();
  EfficientNet network(network_config(model), 1, Mode::inference, workers, Isa::generic);
  const TensorFile good{network.parameters().save(), {}};
  TensorFile bad = good;
  bad.tensors.erase(bad.tensors.begin());
  CHECK_THROWS_WITH_AS(network.parameters().load(bad), "tensor 'conv_stem.weight' is missing",
                       Error);
  bad = good;
  bad.tensors.push_back({"stray", Dtype::f32, {1}, std::vector<std::byte>(4)});
  CHECK_THROWS_WITH_AS(network.parameters().load(bad), "unknown tensor 'stray'", Error);
  bad = good;
  bad.tensors[0].shape = {3, 3, 3, 8};
  CHECK_THROWS_WITH_AS(network.parameters().load(bad),
                       "tensor 'conv_stem.weight' has shape [3,3,3,8], expected [8,3,3,3]", Error);
  CHECK_NOTHROW(network.parameters().load(good));
}

TEST_CASE("parameters: initial values have the recipe's distributions") {
  Workers workers(1);
  ModelConfig model = published_model("b0");
  model.resolution = 32;
  EfficientNet network(network_config(model), 1, Mode::inference, workers, Isa::generic);
  network.parameters().initialise(5);
  for (const NamedTensor& t : network.parameters().save()) {
    if (t.dtype != Dtype::f32) continue;
    CAPTURE(t.name);
    double sum = 0, square = 0, largest = 0;
    for (int64_t i = 0; i < t.count(); ++i) {
      const double v = t.values<float>()[i];
      sum += v;
      square += v * v;
      largest = std::max(largest, std::abs(v));
    }
    const double n = static_cast<double>(t.count()), mean = sum / n,
                 deviation = std::sqrt(square / n);
    if (t.shape.size() == 1) {
      const bool ones = t.name.ends_with("running_var") ||
                        (t.name.find("bn") != std::string::npos && t.name.ends_with(".weight"));
      CHECK(mean == (ones ? 1.0 : 0.0));
      CHECK(deviation == (ones ? 1.0 : 0.0));
      continue;
    }
    const bool depthwise = t.name.ends_with("conv_dw.weight"),
               dense = t.name == "classifier.weight";
    const double receptive = t.shape.size() == 4 ? static_cast<double>(t.shape[2] * t.shape[3]) : 1;
    const double fan_in = static_cast<double>(t.shape[1]) * receptive;
    const double expected = dense ? std::sqrt(2.0 / (1280 + 1000)) : std::sqrt(2.0 / fan_in);
    CHECK(deviation == doctest::Approx(expected).epsilon(5 / std::sqrt(n)));
    CHECK(std::abs(mean) < 5 * expected / std::sqrt(n));
    const double limit = dense || depthwise ? std::sqrt(3.0) * expected : 2 * expected / 0.8796;
    CHECK(largest <= limit * 1.0001);
    if (n > 1000) CHECK(largest > 0.95 * limit);
  }
}
