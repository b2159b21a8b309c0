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
  int64_t next_sample = 0;  // of the loader
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
  // A new run: creates the folder. Throws Error if it already holds a run.
  // A resumed one: throws Error if it holds none.
  RunFolder(std::filesystem::path path, bool resume);

  const std::filesystem::path& path() const { return path_; }
  void write_config(const std::string& json);
  // The options of the run that the folder holds, as config.json says.
  std::string read_config() const;

  // Loads weights and optimiser state; returns the step and sets `position`. Throws Error if they
  // do not belong together or `key` differs from the run's.
  int64_t restore(net::EfficientNet& network, const RunKey& key, DataPosition& position);
  // Opens log and events, dropping log rows after `step`, which an interrupted run did past its
  // last checkpoint.
  void open_logs(int64_t step);

  void log(const LogRow& row);
  // last.safetensors and its state, such that a crash between the two files loses neither.
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
  double best_top1_ = -1;
};

}  // namespace mbconv::bin
