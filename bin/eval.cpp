// Top-1, top-5 and loss of a checkpoint on TFRecord files.

#include <cmath>
#include <cstdio>
#include <iostream>

#include "bin/bad_list.h"
#include "bin/cli.h"
#include "bin/options.h"
#include "bin/progress.h"
#include "bin/validate.h"
#include "io/safetensors.h"

namespace mbconv::bin {
namespace {

struct EvalArgs {
  std::string weights, data;
  int batch = 64;
  ModelOptions model;
  MachineOptions machine;
  RecordOptions records;
  FaultOptions faults;
  ShardOption shard;
  bool per_class = false;
};

void add_options(Options& app, EvalArgs& a) {
  app.add("--weights", a.weights, "safetensors file with timm's names").group("Data");
  app.add("--data", a.data, "Glob of the TFRecord files, several by commas").group("Data");
  app.add("--batch", a.batch, "Images at a time").whole(1, 1 << 20).show_default().group("Data");
  add_shard_option(app, a.shard,
                   "I/N: of N processes, take part I (from 0); every image is in one part");
  app.add_flag("--per-class", a.per_class, "Also print images and top-1 of each class")
      .group("Data");
  add_record_options(app, a.records);
  add_fault_options(app, a.faults, {"strict", "skip"});
  add_model_options(app, a.model);
  add_machine_options(app, a.machine);
}

void print_classes(const Validation& v, const std::vector<std::string>& names) {
  for (size_t c = 0; c < v.classes.size(); ++c) {
    const auto [images, top1] = v.classes[c];
    if (images == 0) continue;
    std::printf("class %s: top-1 %.4f images %ld\n",
                class_label(names, static_cast<int64_t>(c)).c_str(),
                static_cast<double>(top1) / static_cast<double>(images), images);
  }
}

void print_bad_records(const Validation& v, const io::RecordSet& records) {
  std::vector<std::string> texts;
  for (const io::BadRecord& bad : v.bad) texts.push_back(bad.text(records));
  if (texts.empty()) return;
  std::cout << "bad records left out: " << texts.size() << '\n';
  print_bad(std::cout, texts, "");
}

int eval(EvalArgs& a) {
  if (a.weights.empty()) throw UsageError("--weights is required");
  if (a.data.empty()) throw UsageError("--data is required");
  const Isa isa = resolve_isa(a.machine);
  io::LoaderOptions options;
  apply(a.faults, options);
  apply(a.shard, options);
  TensorFile file = io::read_safetensors(a.weights);
  const net::NetworkConfig config = resolve_model(a.model, &file, a.weights);
  const auto info = net::checkpoint_info(file);
  if (info && info->label_offset_given && !a.records.label_offset) {
    a.records.label_offset = info->label_offset;
  }

  Workers workers(a.machine.threads);
  const std::vector<std::string> names = read_class_names(a.records, config.model.classes);
  const io::RecordSet records = open_records(a.data, a.records, on_damage(a.faults));
  net::EfficientNet network = with_memory_for(a.batch, config.model.resolution, [&] {
    return net::EfficientNet(config, a.batch, net::Mode::inference, workers, isa);
  });
  try {
    network.parameters().load(file);
  } catch (const Error& e) {
    throw Error(a.weights, ": ", e.what(), " (does it fit --model ", config.model.name, "?)");
  }
  file = {};
  std::cout << "model " << config.model.name << ", " << config.model.resolution << " pixels, "
            << config.model.classes << " classes, ISA level " << name(isa) << ", "
            << workers.threads() << " threads" << std::endl;
  options.max_side = a.records.max_side;
  options.keys = example_keys(a.records);
  if (info) options.normalisation = info->normalisation;
  Progress progress;
  const int64_t total = io::samples_of_shard(records.size(), options);
  const Validation v = validate(network, records, workers, options, [&](int64_t done) {
    progress.update(done, total, std::to_string(done) + "/" + std::to_string(total) + " images",
                    false);
    return true;
  });
  progress.clear();
  print_bad_records(v, records);
  require(std::isfinite(v.loss), a.weights, ": the loss on ", a.data, " is ", v.loss);
  if (a.per_class) print_classes(v, names);
  std::printf("%.1f images/s, input wait %.1f %%\n", static_cast<double>(v.images) / v.seconds,
              100 * v.input_wait / v.seconds);
  std::printf("top-1 %.4f top-5 %.4f loss %.4f images %ld\n", v.top1, v.top5, v.loss, v.images);
  return 0;
}

}  // namespace
}  // namespace mbconv::bin

int main(int argc, char** argv) {
  mbconv::bin::EvalArgs args;
  mbconv::bin::Options app("Evaluates a checkpoint on TFRecord files of tf.train.Example.", "eval");
  add_options(app, args);
  return mbconv::bin::run_program(app, argc, argv, [&] { return mbconv::bin::eval(args); });
}
