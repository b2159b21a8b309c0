#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "io/loader.h"
#include "lib/isa.h"
#include "lib/named_tensor.h"
#include "net/checkpoint.h"

namespace mbconv::bin {

// Options that programs share. Each is declared once, with its default and help, in add_*.

// Which network. What is not given comes from a checkpoint's metadata, else from the published
// model.
struct ModelOptions {
  std::string model = "b0", activation;
  std::optional<double> width, depth, dropout;
  std::optional<int> resolution, classes;
  bool expand_at_ratio_1 = false;
  const CLI::App* app = nullptr;
};
void add_model_options(CLI::App& app, ModelOptions& options);
// `weights`: the file of --init or --weights, if any. Throws UsageError.
net::NetworkConfig resolve_model(const ModelOptions& options, const TensorFile* weights);

// Makes the printed configuration show what options that were not given came to.
void show_resolved(CLI::App& app, const net::ModelConfig& model, Isa isa);

// How the machine is used.
struct MachineOptions {
  int threads;
  std::string isa;
};
void add_machine_options(CLI::App& app, MachineOptions& options);
// Throws UsageError.
Isa resolve_isa(const MachineOptions& options);

// How records are read.
struct RecordOptions {
  std::string image_key, label_key;
  std::optional<int64_t> label_offset;
  int max_side = 10000;
};
void add_record_options(CLI::App& app, RecordOptions& options);
io::ExampleKeys example_keys(const RecordOptions& options);

}  // namespace mbconv::bin
