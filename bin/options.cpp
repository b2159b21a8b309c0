#include "bin/options.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <limits>
#include <sstream>

#include "io/inflated_data.h"
#include "lib/cpus.h"

namespace mbconv::bin {
namespace {

constexpr int64_t kMostLabel = std::numeric_limits<int>::max();

}  // namespace

void add_model_options(Options& app, ModelOptions& o) {
  const char* group = kModelGroup;
  o.app = &app;
  app.add("--model", o.model, "Published model: " + net::model_names()).show_default().group(group);
  const auto add = [&](const char* flag, auto& value, const char* help) {
    return app.add(flag, value, help).group(group);
  };
  add("--width", o.width, "Width coefficient [the model's]").between(0, 100);
  add("--depth", o.depth, "Depth coefficient [the model's]").between(0, 100);
  add("--resolution", o.resolution, "Pixels a side [the model's]").whole(1, 10000);
  add("--dropout", o.dropout, "Dropout before the classifier [the model's]").between(0, 0.999999);
  add("--classes", o.classes, "Number of classes [1000, or the checkpoint's]")
      .whole(1, std::numeric_limits<int>::max());
  app.add("--activation", o.activation,
          "Activation [swish, or the checkpoint's]: " + ops::activation_names())
      .group(group);
  app.add_flag("--expand-at-ratio-1", o.expand_at_ratio_1,
               "Keep the expand convolution where the expansion is 1")
      .group(group);
}

net::NetworkConfig resolve_model(const ModelOptions& o, const TensorFile* weights,
                                 const std::string& path) {
  std::optional<net::CheckpointInfo> info;
  std::optional<int> classes;
  try {
    if (weights != nullptr) {
      info = net::checkpoint_info(*weights);
      classes = net::checkpoint_classes(*weights);
    }
  } catch (const Error& e) {
    throw Error(path, ": ", e.what());
  }
  try {
    net::ModelConfig model = net::published_model(o.model);
    const bool same_model = !o.app->given("--model") || (info && info->model.name == o.model);
    if (info && same_model) model = info->model;
    if (classes) model.classes = *classes;
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

void show_resolved(Options& app, const net::ModelConfig& model, Isa isa) {
  const auto show = [&](const char* option, const std::string& text) { app.show(option, text); };
  show("--model", model.name);
  show("--width", exact_text(model.width));
  show("--depth", exact_text(model.depth));
  show("--resolution", exact_text(model.resolution));
  show("--dropout", exact_text(model.dropout));
  show("--classes", exact_text(model.classes));
  show("--activation", std::string(ops::name(model.activation)));
  show("--expand-at-ratio-1", model.expand_at_ratio_1 ? "true" : "false");
  show("--isa", std::string(name(isa)));
}

void add_threads_option(Options& app, MachineOptions& o) {
  o.threads = available_threads();
  app.add("--threads", o.threads,
          "Threads of the whole process, decoding included [CPUs of the affinity mask and the "
          "cgroup's quota]")
      .whole(1, 4096)
      .show_default()
      .group("Machine");
}

void add_machine_options(Options& app, MachineOptions& o) {
  add_threads_option(app, o);
  app.add("--isa", o.isa,
          "Instruction-set level [best of this CPU, or MBCONV_ISA]: generic, avx2, avx512")
      .group("Machine");
}

Isa resolve_isa(const MachineOptions& o) {
  try {
    const Isa isa = select_isa(o.isa);
    if (o.isa.empty() && isa == host_isa() && isa < cpu_isa()) {
      std::cerr << "warning: this CPU has " << name(cpu_isa())
                << ", which is not compiled into this program: it runs at " << name(isa)
                << "; see meson's option levels\n";
    }
    return isa;
  } catch (const Error& e) {
    throw UsageError(e.what());
  }
}

void add_record_options(Options& app, RecordOptions& o) {
  const char* group = "Records";
  app.add("--image-key", o.image_key, "Key of the encoded image [image or image/encoded]")
      .group(group);
  app.add("--label-key", o.label_key, "Key of the label [label or image/class/label]").group(group);
  app.add("--label-offset", o.label_offset,
          "Subtracted from stored labels [1 for image/class/label, else 0]")
      .whole(-kMostLabel, kMostLabel)
      .group(group);
  app.add("--max-side", o.max_side, "Refuse pictures with a longer side, in pixels")
      .whole(1, 65535)
      .show_default()
      .group(group);
  app.add("--cache-dir", o.cache_dir,
          "Folder for indexes of the files and inflated data [indexes beside the files, "
          "inflated data in TMPDIR; with --shuffle block, compressed files are read in place]")
      .group(group);
  app.add("--class-names", o.class_names, "File with the name of each class, one a line")
      .group(group);
}

io::ExampleKeys example_keys(const RecordOptions& o) {
  return {o.image_key, o.label_key, o.label_offset};
}

io::RecordSet open_records(const std::string& pattern, const RecordOptions& o,
                           io::OnDamage on_damage, io::Shuffle shuffle) {
  const io::IndexCache cache = o.cache_dir.empty() ? io::IndexCache() : io::IndexCache(o.cache_dir);
  const bool in_place = shuffle == io::Shuffle::block;
  io::RecordSet records(
      pattern, {on_damage, &cache, in_place ? std::make_shared<io::PieceCache>() : nullptr});
  const std::string unkept = cache.unkept();
  if (!unkept.empty()) {
    std::cerr << "warning: the next run indexes the files again: cannot write " << unkept
              << "; --cache-dir names a folder for indexes\n";
  }
  return records;
}

std::vector<std::string> read_class_names(const RecordOptions& o, int classes) {
  std::vector<std::string> names;
  if (o.class_names.empty()) return names;
  std::ifstream in(o.class_names);
  require(in.good(), o.class_names, ": cannot open");
  for (std::string line; std::getline(in, line);) {
    if (line.ends_with('\r')) line.pop_back();
    names.push_back(line);
  }
  require(!in.bad(), o.class_names, ": cannot read");
  require(classes == 0 || names.size() == static_cast<size_t>(classes), o.class_names, ": has ",
          names.size(), " class names, there are ", classes, " classes");
  return names;
}

std::string class_label(const std::vector<std::string>& names, int64_t label) {
  const bool named = label >= 0 && label < static_cast<int64_t>(names.size());
  return std::to_string(label) + (named ? " (" + names[static_cast<size_t>(label)] + ")" : "");
}

void add_fault_options(Options& app, FaultOptions& o, const std::vector<std::string>& policies) {
  const char* group = "Records";
  const bool quarantine =
      std::find(policies.begin(), policies.end(), "quarantine") != policies.end();
  app.add("--on-bad-record", o.policy,
          std::string("Damaged records, pictures that cannot be decoded, labels out of range: "
                      "strict stops, skip leaves them out and lists them") +
              (quarantine ? ", quarantine also copies them to OUT/quarantine" : ""))
      .one_of(policies)
      .show_default()
      .group(group);
  app.add("--max-bad", o.max_bad,
          "Bad records that stop the run nevertheless: more than a count (25), or than a "
          "share of those met so far (10%)")
      .show_default()
      .group(group);
}

io::OnDamage on_damage(const FaultOptions& o) {
  return o.policy == "strict" ? io::OnDamage::stop : io::OnDamage::resynchronise;
}

void apply(const FaultOptions& o, io::LoaderOptions& loader) {
  try {
    loader.on_bad_record = io::parse_fault_policy(o.policy);
    loader.max_bad = io::parse_bad_limit(o.max_bad);
  } catch (const Error& e) {
    throw UsageError("--max-bad: ", e.what());
  }
}

void add_shard_option(Options& app, ShardOption& o, const char* help) {
  app.add("--shard", o.text, help).show_default().group("Data");
}

void apply(const ShardOption& o, io::LoaderOptions& loader) {
  std::istringstream in(o.text);
  char slash = 0;
  int shard = -1, shards = 0;
  const bool read = bool(in >> shard >> slash >> shards) && in.peek() == EOF && slash == '/';
  if (!read || shards < 1 || shard < 0 || shard >= shards) {
    throw UsageError("--shard: '", o.text,
                     "' is no part of the data, expected I/N, I from 0 to N - 1");
  }
  loader.shard = shard;
  loader.shards = shards;
}

}  // namespace mbconv::bin
