#include "net/checkpoint.h"

#include <charconv>
#include <limits>
#include <sstream>
#include <string_view>

#include "lib/error.h"

namespace mbconv::net {
namespace {

constexpr const char *kPublishedTopology = "published", *kExpandAtRatio1 = "expand-at-ratio-1";

// Shortest text that reads back as the same number.
template <class T>
std::string to_text(T value) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return std::string(buffer, end);
}

const std::string& text_of(const TensorFile& file, const std::string& key) {
  const auto entry = file.metadata.find(key);
  require(entry != file.metadata.end(), "the metadata lacks '", key, "'");
  return entry->second;
}

// One number for each channel, by commas.
std::string to_text(const std::array<float, 3>& values) {
  return to_text(values[0]) + "," + to_text(values[1]) + "," + to_text(values[2]);
}

// The number `text` is, or nothing.
template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

template <class T>
T number_of(const TensorFile& file, const std::string& key) {
  const std::string& text = text_of(file, key);
  const std::optional<T> value = parse_number<T>(text);
  require(value.has_value(), "the metadata's '", key, "' is '", text, "', expected a number");
  return *value;
}

std::array<float, 3> channels_of(const TensorFile& file, const std::string& key) {
  const std::string& text = text_of(file, key);
  std::array<float, 3> values{};
  size_t begin = 0;
  for (size_t c = 0; c < 3; ++c) {
    const size_t end = c < 2 ? text.find(',', begin) : text.size();
    const auto value = parse_number<float>(std::string_view(text).substr(begin, end - begin));
    require(end != std::string::npos && value.has_value(), "the metadata's '", key, "' is '", text,
            "', expected three numbers by commas");
    values[c] = *value;
    begin = end + 1;
  }
  return values;
}

}  // namespace

TensorFile make_checkpoint(const EfficientNet& network, const CheckpointInfo& info) {
  const ModelConfig& model = info.model;
  TensorFile file;
  file.tensors = network.parameters().save();
  file.metadata = {
      {"format", "mbconv"},
      {"model", model.name},
      {"width", to_text(model.width)},
      {"depth", to_text(model.depth)},
      {"resolution", to_text(model.resolution)},
      {"dropout", to_text(model.dropout)},
      {"classes", to_text(model.classes)},
      {"activation", std::string(ops::name(model.activation))},
      {"topology", model.expand_at_ratio_1 ? kExpandAtRatio1 : kPublishedTopology},
      {"label_offset", to_text(info.label_offset)},
      {"label_offset_given", info.label_offset_given ? "true" : "false"},
      {"step", to_text(info.step)},
      {"mean", to_text(info.normalisation.mean)},
      {"stddev", to_text(info.normalisation.stddev)},
  };
  return file;
}

std::optional<CheckpointInfo> checkpoint_info(const TensorFile& file) {
  if (!file.metadata.contains("topology")) return std::nullopt;
  CheckpointInfo info;
  info.model.name = text_of(file, "model");
  info.model.width = number_of<double>(file, "width");
  info.model.depth = number_of<double>(file, "depth");
  info.model.resolution = number_of<int>(file, "resolution");
  if (file.metadata.contains("dropout")) info.model.dropout = number_of<double>(file, "dropout");
  info.model.classes = number_of<int>(file, "classes");
  info.model.activation = ops::parse_activation(text_of(file, "activation"));
  const std::string& topology = text_of(file, "topology");
  require(topology == kPublishedTopology || topology == kExpandAtRatio1,
          "the metadata's 'topology' is '", topology, "', expected ", kPublishedTopology, " or ",
          kExpandAtRatio1);
  info.model.expand_at_ratio_1 = topology == kExpandAtRatio1;
  info.label_offset = number_of<int64_t>(file, "label_offset");
  if (file.metadata.contains("label_offset_given")) {
    info.label_offset_given = text_of(file, "label_offset_given") == "true";
  }
  info.step = number_of<int64_t>(file, "step");
  if (file.metadata.contains("mean")) {
    info.normalisation = {channels_of(file, "mean"), channels_of(file, "stddev")};
  }
  return info;
}

int checkpoint_classes(const TensorFile& file) {
  const NamedTensor* bias = file.find("classifier.bias");
  require(bias != nullptr && bias->shape.size() == 1, "tensor 'classifier.bias' is missing");
  return static_cast<int>(bias->shape[0]);
}

TensorFile make_state(const EfficientNet& network, int64_t step) {
  TensorFile file;
  file.tensors = network.parameters().save_momentum();
  file.metadata = {{"format", "mbconv-state"}, {"step", to_text(step)}};
  return file;
}

void restore(EfficientNet& network, const TensorFile& weights, const TensorFile& state) {
  const auto weights_step = number_of<int64_t>(weights, "step");
  const auto state_step = number_of<int64_t>(state, "step");
  require(weights_step == state_step, "the weights are of step ", weights_step,
          ", the optimiser's state of step ", state_step);
  network.parameters().load(weights);
  network.parameters().load_momentum(state);
}

}  // namespace mbconv::net
