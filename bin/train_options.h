#pragma once

#include <cstdint>
#include <string>

#include "bin/options.h"
#include "bin/run_folder.h"
#include "net/trainer.h"

namespace mbconv::bin {

// Everything `train` can be told.
struct TrainArgs {
  std::string train_data, val_data, init, out = "run", augment = "recipe", shuffle = "on";
  int batch = 64, prefetch = 3;
  uint64_t prefetch_bytes = uint64_t{1} << 30;
  size_t shuffle_block = 256, shuffle_window = 8192;
  double epochs = 60;
  int64_t steps = 0, log_every = 100, checkpoint_every_steps = 0;
  uint64_t seed = 0;
  bool resume = false, memory_plan = false;
  net::TrainOptions recipe;
  io::AugmentRanges ranges;
  Normalisation normalisation;
  ModelOptions model;
  MachineOptions machine;
  RecordOptions records;
  FaultOptions faults;
  ShardOption shard;
};

void add_train_options(Options& app, TrainArgs& args);
// Of them, those that say in which order records come, and what augmentation does to them.
void add_order_options(Options& app, TrainArgs& args);
void add_augment_options(Options& app, TrainArgs& args);

// What config.json says: the options with the value they have, the network, the ISA level.
std::string config_json(const Options& app, const net::ModelConfig& model, Isa isa);

// Options that were not given take the values of the run that is gone on with, `config` being the
// config.json of its folder. Not those of the network: the checkpoint has them. Throws Error.
void take_options_of_run(Options& app, const std::string& config);

// Throws UsageError where options contradict each other.
void check_train_options(const TrainArgs& args);

// How training images are read; `size` and `classes` are the network's. Throws UsageError.
io::LoaderOptions loader_options(const TrainArgs& args, int size, int classes);

}  // namespace mbconv::bin
