#include "bin/options.h"

#include <sstream>

#include "bin/cli.h"
#include "lib/parallel.h"

namespace mbconv::bin {

void add_model_options(CLI::App& app, ModelOptions& o) {
  const char* group = "Model";
  o.app = &app;
  app.add_option("--model", o.model, "Published model: " + net::model_names())
      ->capture_default_str()
      ->group(group);
  app.add_option("--width", o.width, "Width coefficient [the model's]")->group(group);
  app.add_option("--depth", o.depth, "Depth coefficient [the model's]")->group(group);
  app.add_option("--resolution", o.resolution, "Pixels a side [the model's]")->group(group);
  app.add_option("--dropout", o.dropout, "Dropout before the classifier [the model's]")
      ->group(group);
  app.add_option("--classes", o.classes, "Number of classes [1000, or the checkpoint's]")
      ->group(group);
  app.add_option("--activation", o.activation,
                 "Activation [swish, or the checkpoint's]: " + ops::activation_names())
      ->group(group);
  app.add_flag("--expand-at-ratio-1", o.expand_at_ratio_1,
               "Keep the expand convolution where the expansion is 1")
      ->group(group);
}

net::NetworkConfig resolve_model(const ModelOptions& o, const TensorFile* weights) {
  try {
    net::ModelConfig model = net::published_model(o.model);
    const auto info = weights != nullptr ? net::checkpoint_info(*weights) : std::nullopt;
    if (info && o.app->count("--model") == 0) model = info->model;
    if (weights != nullptr) model.classes = net::checkpoint_classes(*weights);
    if (info && o.activation.empty()) model.activation = info->model.activation;
    if (info && info->model.expand_at_ratio_1) model.expand_at_ratio_1 = true;
    if (!o.activation.empty()) model.activation = ops::parse_activation(o.activation);
    if (o.width) model.width = *o.width;
    if (o.depth) model.depth = *o.depth;
    if (o.resolution) model.resolution = *o.resolution;
    if (o.dropout) model.dropout = *o.dropout;
    if (o.classes) model.classes = *o.classes;
    if (o.expand_at_ratio_1) model.expand_at_ratio_1 = true;
    return net::network_config(model);
  } catch (const Error& e) {
    throw UsageError(e.what());
  }
}

void show_resolved(CLI::App& app, const net::ModelConfig& model, Isa isa) {
  const auto show = [&](const char* option, const auto& value) {
    std::ostringstream text;
    text << value;
    app.get_option(option)->default_str(text.str());
  };
  show("--width", model.width);
  show("--depth", model.depth);
  show("--resolution", model.resolution);
  show("--dropout", model.dropout);
  show("--classes", model.classes);
  show("--activation", ops::name(model.activation));
  show("--isa", name(isa));
}

void add_machine_options(CLI::App& app, MachineOptions& o) {
  const char* group = "Machine";
  o.threads = available_threads();
  app.add_option(
         "--threads", o.threads,
         "Threads of the whole process, decoding included [CPUs of the affinity mask and the "
         "cgroup's quota]")
      ->check(between(1, 4096))
      ->capture_default_str()
      ->group(group);
  app.add_option("--isa", o.isa,
                 "Instruction-set level [best of this CPU, or MBCONV_ISA]: generic, avx2, avx512")
      ->group(group);
}

Isa resolve_isa(const MachineOptions& o) {
  try {
    return select_isa(o.isa);
  } catch (const Error& e) {
    throw UsageError(e.what());
  }
}

void add_record_options(CLI::App& app, RecordOptions& o) {
  const char* group = "Records";
  app.add_option("--image-key", o.image_key, "Key of the encoded image [image or image/encoded]")
      ->group(group);
  app.add_option("--label-key", o.label_key, "Key of the label [label or image/class/label]")
      ->group(group);
  app.add_option("--label-offset", o.label_offset,
                 "Subtracted from stored labels [1 for image/class/label, else 0]")
      ->group(group);
  app.add_option("--max-side", o.max_side, "Refuse pictures with a longer side, in pixels")
      ->check(between(1, 65535))
      ->capture_default_str()
      ->group(group);
}

io::ExampleKeys example_keys(const RecordOptions& o) {
  return {o.image_key, o.label_key, o.label_offset};
}

}  // namespace mbconv::bin
