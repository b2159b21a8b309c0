#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bin/validate.h"
#include "io/events.h"
#include "net/checkpoint.h"

namespace mbconv::bin {

// One row of log.csv. Means since the last row; top-k are fractions.
struct LogRow {
  int64_t step;
  int64_t epoch;  // from 1
  std::string split;
  double loss, cross_entropy, lr, top1, top5, images_per_second, seconds;
  double input_wait;     // share of the time spent waiting for input, 0 to 1
  int64_t bad_records;   // left out so far, each counted once
  std::string bad_list;  // those found since the last row, as BadList::take_places gives them
};

// Where a run is in its data, kept in the optimiser's state.
struct DataPosition {
  // Samples of the loader: the first of the last batch, and the one to go on with.
  int64_t first_sample = 0, next_sample = 0;
  std::vector<uint32_t> bad;
};

// What a run must share with the one it goes on from, kept in the optimiser's state.
struct RunKey {
  int64_t batch, records;
  uint64_t seed;
};

// The folder of a training run: config.json, log.csv, events.out.tfevents.*, last.safetensors with
// last.state.safetensors, best.safetensors.
class RunFolder {
 public:
  // Throws Error where a new run would find checkpoints, which are never overwritten, or a resumed
  // one would find none.
  RunFolder(std::filesystem::path path, bool resume);
  // Makes the folder, if it does not exist.
  void create();

  const std::filesystem::path& path() const { return path_; }
  std::string last() const;  // path of last.safetensors
  void write_config(const std::string& json);
  // The options of the run that the folder holds, as config.json says.
  std::string read_config() const;

  // Loads `weights`, as read from last(), and the optimiser's state; returns the step and sets
  // `position`. Throws Error if they do not belong together or `key` differs from the run's.
  int64_t restore(net::EfficientNet& network, const TensorFile& weights, const RunKey& key,
                  DataPosition& position);
  // Opens log and events, dropping log rows after `step`, which an interrupted run did past its
  // last checkpoint.
  void open_logs(int64_t step);

  void log(const LogRow& row);
  // Whether the log has a validation after `step`.
  bool has_validation(int64_t step) const { return last_validation_ == step; }
  // last.safetensors and its state, such that a crash between the two files loses neither. Throws
  // Error, having written nothing, if a number in them is not finite.
  void save_last(const net::EfficientNet& network, const net::CheckpointInfo& info,
                 const RunKey& key, const DataPosition& position);
  // best.safetensors, if `validation` beats the best so far.
  bool save_best(const net::EfficientNet& network, const net::CheckpointInfo& info,
                 const Validation& validation);

 private:
  std::filesystem::path file(const char* name) const { return path_ / name; }

  std::filesystem::path path_;
  std::ofstream csv_;
  std::unique_ptr<io::EventWriter> events_;
  // Of the validations in the log.
  double best_top1_ = -1;
  int64_t last_validation_ = -1;
};

}  // namespace mbconv::bin
