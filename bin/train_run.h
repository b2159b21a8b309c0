#pragma once

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <memory>

#include "bin/bad_list.h"
#include "bin/progress.h"
#include "bin/train_options.h"

namespace mbconv::bin {

// Makes SIGINT and SIGTERM end a run after its step, with a checkpoint. A second one ends the
// program at once.
void catch_interrupts();

// Means over the steps since the last row of the log.
struct Means {
  int64_t steps = 0;
  double loss = 0, cross_entropy = 0, top1 = 0, top5 = 0, lr = 0;
  double input_wait = 0;  // seconds

  void add(const net::StepResult& result, int batch, double wait);
  LogRow row(int64_t step, int64_t epoch, int batch, double interval, double seconds) const;
};

// A training run: opens data and network, then trains, validates, writes log and checkpoints.
class TrainRun {
 public:
  TrainRun(const TrainArgs& args, const net::NetworkConfig& config, RunFolder& folder, Isa isa);

  // Parameters: those of `weights`, the checkpoint of the run or the file of --init, or initial.
  void load(const TensorFile* weights);
  void print(std::ostream& out) const;
  // Returns the exit status.
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  // The epoch, from 0, of a sample of the loader.
  int64_t epoch_of(int64_t sample) const {
    return (sample * options_.shards + options_.shard) / static_cast<int64_t>(train_.size());
  }
  RunKey key() const { return {args_.batch, static_cast<int64_t>(train_.size()), args_.seed}; }
  // The epoch, from 1, of the last step; whether it is complete.
  int64_t epoch() const { return epoch_of(position_.first_sample) + 1; }
  bool epoch_is_complete() const { return epoch_of(position_.next_sample) >= epoch(); }
  bool run_is_complete() const { return info_.step >= recipe_.total_steps; }
  bool validation_is_missing() const {
    return val_ && info_.step > 0 && (epoch_is_complete() || run_is_complete()) &&
           !folder_.has_validation(info_.step);
  }
  void warn_of_warmup() const;
  double note_batch(const io::Batch& batch, io::Loader& loader);
  void log_step(const net::StepResult& result, double wait, bool last);
  bool train_steps();
  bool finish_epoch();
  bool validate_epoch(const std::string& wait);
  void log_validation(const Validation& v, const std::string& wait);
  void save(const io::Batch& batch);

  const TrainArgs& args_;
  RunFolder& folder_;
  Workers workers_;
  io::RecordSet train_;
  std::unique_ptr<io::RecordSet> val_;
  net::EfficientNet network_;
  BadList bad_;
  size_t bad_in_validation_ = 0;
  io::LoaderOptions options_;  // of a run from its beginning
  DataPosition position_;      // after the last step
  net::TrainOptions recipe_;
  net::CheckpointInfo info_;  // info_.step: steps done
  Progress progress_;
  Means means_;
  Clock::time_point start_ = Clock::now(), last_row_ = start_, epoch_start_ = start_;
  double validation_seconds_ = 0, epoch_wait_ = 0;
  int64_t first_step_ = 0;
};

}  // namespace mbconv::bin
