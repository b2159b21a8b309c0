#pragma once

#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bin/cli.h"
#include "io/loader.h"
#include "lib/isa.h"
#include "lib/named_tensor.h"
#include "net/checkpoint.h"

namespace mbconv::bin {

// Options that programs share. Each is declared once, with its default and help, in add_*.

// The group that all options of the network are in.
inline constexpr const char* kModelGroup = "Model";

// Which network. What is not given comes from a checkpoint's metadata, else from the published
// model.
struct ModelOptions {
  std::string model = "b0", activation;
  std::optional<double> width, depth, dropout;
  std::optional<int> resolution, classes;
  bool expand_at_ratio_1 = false;
  const Options* app = nullptr;
};
void add_model_options(Options& app, ModelOptions& options);
// `weights`: what the file `path` of --init or --weights holds, or null. Its metadata give all that
// is not given, unless another --model is. Throws UsageError; Error naming `path` if the file is
// damaged.
net::NetworkConfig resolve_model(const ModelOptions& options, const TensorFile* weights,
                                 const std::string& path = {});

// Makes the printed configuration show what options that were not given came to.
void show_resolved(Options& app, const net::ModelConfig& model, Isa isa);

// How the machine is used.
struct MachineOptions {
  int threads;
  std::string isa;
};
void add_threads_option(Options& app, MachineOptions& options);
void add_machine_options(Options& app, MachineOptions& options);
// Throws UsageError.
Isa resolve_isa(const MachineOptions& options);

// What `make` makes; where memory is out, names the options that ask for it.
template <class Make>
auto with_memory_for(int batch, int resolution, const Make& make) -> decltype(make()) {
  const auto options = [&] {
    return "; less is needed with a smaller --batch than " + std::to_string(batch) +
           " or a smaller --resolution than " + std::to_string(resolution);
  };
  try {
    return make();
  } catch (const Error& e) {
    if (!std::string_view(e.what()).starts_with("out of memory")) throw;
    throw Error(e.what(), options());
  } catch (const std::bad_alloc&) {
    throw Error("out of memory", options());
  } catch (const std::length_error&) {
    throw Error("out of memory", options());
  }
}

// How records are read.
struct RecordOptions {
  std::string image_key, label_key, cache_dir, class_names;
  std::optional<int64_t> label_offset;
  int max_side = 10000;
};
void add_record_options(Options& app, RecordOptions& options);
io::ExampleKeys example_keys(const RecordOptions& options);
// Opens the files that a pattern matches, with the index cache that the options name. With block
// shuffling, compressed files that have no inflated copy there are read in place. Warns where
// indexes cannot be kept.
io::RecordSet open_records(const std::string& pattern, const RecordOptions& options,
                           io::OnDamage on_damage, io::Shuffle shuffle = io::Shuffle::off);

// The names of the classes, a line each, of the file that the options name; none without. Throws
// Error if their number is not `classes` (unless that is 0).
std::vector<std::string> read_class_names(const RecordOptions& options, int classes);
// "3 (zebra)", or "3" where there is no name.
std::string class_label(const std::vector<std::string>& names, int64_t label);

// What becomes of bad records.
struct FaultOptions {
  std::string policy = "strict", max_bad = "50%";
};
// `policies`: those of strict, skip and quarantine that the program knows.
void add_fault_options(Options& app, FaultOptions& options,
                       const std::vector<std::string>& policies);
io::OnDamage on_damage(const FaultOptions& options);

// Which part of the data this process takes.
struct ShardOption {
  std::string text = "0/1";
};
void add_shard_option(Options& app, ShardOption& option, const char* help);

// Sets the loader's policy, limit and shard. Throws UsageError.
void apply(const FaultOptions& options, io::LoaderOptions& loader);
void apply(const ShardOption& option, io::LoaderOptions& loader);

}  // namespace mbconv::bin
