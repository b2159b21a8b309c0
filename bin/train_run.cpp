#include "bin/train_run.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "bin/cli.h"

namespace mbconv::bin {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int kInterruptedStatus = 130;
constexpr const char* kAdvice = "; a lower learning rate or a longer warm-up may help";
std::atomic<bool> interrupted{false};

io::RecordSet open_data(const std::string& pattern, const TrainArgs& args) {
  return open_records(pattern, args.records, on_damage(args.faults),
                      io::parse_shuffle(args.shuffle));
}

// What is subtracted from stored labels, as the first record that can be read shows. A data set
// whose first records cannot is refused: it has other keys, or is no data set.
int64_t label_offset(const io::RecordSet& records, const io::ExampleKeys& keys, bool strict) {
  constexpr size_t kTries = 1000;
  std::vector<std::byte> record;
  for (size_t i = 0;; ++i) {
    try {
      records.read(i, record);
      try {
        return io::parse_labelled_image(record, keys).label_offset;
      } catch (const Error& e) {
        throw Error(records.describe(i), ": ", e.what());
      }
    } catch (const Error&) {
      if (strict || i + 1 == std::min(kTries, records.size())) throw;
    }
  }
}

}  // namespace

void catch_interrupts() {
  for (const int signal : {SIGINT, SIGTERM}) {
    std::signal(signal, [](int caught) {
      if (interrupted.exchange(true)) std::signal(caught, SIG_DFL);
    });
  }
}

void Means::add(const net::StepResult& r, int batch, double wait) {
  ++steps;
  input_wait += wait;
  loss += r.loss;
  cross_entropy += r.batch.cross_entropy;
  top1 += static_cast<double>(r.batch.top1) / batch;
  top5 += static_cast<double>(r.batch.top5) / batch;
  lr = r.lr;
}

LogRow Means::row(int64_t step, int64_t epoch, int batch, double interval, double seconds) const {
  const double n = static_cast<double>(steps);
  return {step,
          epoch,
          "train",
          loss / n,
          cross_entropy / n,
          lr,
          top1 / n,
          top5 / n,
          n * batch / interval,
          seconds,
          input_wait / interval,
          0,
          {}};
}

TrainRun::TrainRun(const TrainArgs& args, const net::NetworkConfig& config, RunFolder& folder,
                   Isa isa)
    : args_(args),
      folder_(folder),
      workers_(args.machine.threads),
      train_(open_data(args.train_data, args)),
      val_(args.val_data.empty() ? nullptr
                                 : std::make_unique<io::RecordSet>(open_data(args.val_data, args))),
      network_(with_memory_for(args.batch, config.model.resolution,
                               [&] {
                                 return net::EfficientNet(config, args.batch, net::Mode::training,
                                                          workers_, isa);
                               })),
      bad_(folder.path(), io::parse_fault_policy(args.faults.policy)),
      options_(loader_options(args, config.model.resolution, config.model.classes)) {
  const bool strict = args.faults.policy == "strict";
  info_.model = config.model;
  info_.label_offset = label_offset(train_, example_keys(args.records), strict);
  info_.label_offset_given = args.records.label_offset.has_value();
  info_.normalisation = args.normalisation;
  const double by_epochs =
      std::ceil(args.epochs * static_cast<double>(train_.size()) / options_.shards / args.batch);
  recipe_ = args.recipe;
  recipe_.seed = args.seed;
  recipe_.total_steps = args.steps > 0 ? args.steps : static_cast<int64_t>(by_epochs);
}

void TrainRun::load(const TensorFile* weights) {
  if (args_.resume) {
    info_.step = folder_.restore(network_, *weights, key(), position_);
    return;
  }
  network_.parameters().initialise(args_.seed);
  if (weights == nullptr) return;
  const int classes = net::checkpoint_classes(*weights);
  const bool same = classes == info_.model.classes;
  try {
    network_.parameters().load(*weights, same ? "" : "classifier.");
  } catch (const Error& e) {
    throw Error(args_.init, ": ", e.what(), " (does it fit --model ", info_.model.name, "?)");
  }
  std::cout << "initial weights from " << args_.init
            << (same ? ""
                     : ", all but the classifier: it has " + std::to_string(classes) + " classes")
            << '\n';
}

void TrainRun::print(std::ostream& out) const {
  const net::Counts counts = net::count(network_.config());
  constexpr double kMiB = 1 << 20;
  char text[512];
  std::snprintf(
      text, sizeof text,
      "model %s, %d x %d pixels, %d classes: %.3f M parameters, %.3f G multiply-adds an image\n"
      "memory: %.1f MiB of parameters, gradients and momentum, %.1f MiB for a step of %d images\n"
      "data: %zu training images in %zu files, %zu validation images\n"
      "ISA level %s, %d threads, %ld steps",
      info_.model.name.c_str(), info_.model.resolution, info_.model.resolution, info_.model.classes,
      static_cast<double>(counts.parameters) / 1e6, static_cast<double>(counts.macs) / 1e9,
      static_cast<double>(network_.parameters().bytes()) / kMiB,
      static_cast<double>(network_.memory().bytes()) / kMiB, args_.batch, train_.size(),
      train_.files(), val_ ? val_->size() : 0, std::string(name(network_.context().isa)).c_str(),
      workers_.threads(), recipe_.total_steps);
  out << text;
  if (info_.step > 0) out << ", " << info_.step << " of them done";
  out << '\n';
  if (args_.memory_plan) out << network_.memory().describe();
  out.flush();
}

void TrainRun::warn_of_warmup() const {
  if (recipe_.warmup_steps < recipe_.total_steps) return;
  std::cerr << "warning: the warm-up of " << recipe_.warmup_steps
            << " steps is longer than the run of " << recipe_.total_steps
            << "; the learning rate will not reach " << recipe_.lr << '\n';
}

// What a batch says of the run's place in its data; returns the seconds it was waited for.
double TrainRun::note_batch(const io::Batch& batch, io::Loader& loader) {
  position_.first_sample = batch.first_sample;
  position_.next_sample = batch.next_sample;
  const std::vector<io::BadRecord> bad = loader.take_bad_records();
  if (!bad.empty()) {
    bad_.add(train_, bad);
    position_.bad = loader.bad_records();
  }
  const double wait = loader.take_wait_seconds();
  epoch_wait_ += wait;
  return wait;
}

// `last`: no step comes after it.
void TrainRun::log_step(const net::StepResult& result, double wait, bool last) {
  means_.add(result, args_.batch, wait);
  const int64_t step = info_.step, total = recipe_.total_steps;
  const bool row_due = step % args_.log_every == 0 || last;
  const double elapsed = seconds_since(start_);
  const double interval = seconds_since(last_row_) - validation_seconds_;
  LogRow row = means_.row(step, epoch(), args_.batch, interval, elapsed);
  const double rate = static_cast<double>(step - first_step_) / elapsed;
  char text[256];
  std::snprintf(text, sizeof text,
                "step %ld/%ld  epoch %ld  loss %.4f  lr %.5f  %.1f images/s  input wait %.1f %%  "
                "%s left",
                step, total, epoch(), row.loss, row.lr, row.images_per_second, 100 * row.input_wait,
                duration(static_cast<double>(total - step) / rate).c_str());
  progress_.update(step, total, text, row_due);
  if (!row_due) return;
  row.bad_records = static_cast<int64_t>(position_.bad.size());
  row.bad_list = bad_.take_places();
  folder_.log(row);
  means_ = {};
  last_row_ = Clock::now();
  validation_seconds_ = 0;
}

// Writes the checkpoint, once the last step's `batch` has shown that its loss is finite: weights
// may overflow in inference before they do in training, where every batch is normalised.
void TrainRun::save(const io::Batch& batch) {
  network_.infer(batch.images.data());
  const double loss = network_.loss(batch.labels).cross_entropy;
  require(std::isfinite(loss), "the loss of step ", info_.step, " is ", loss, " in inference",
          kAdvice);
  folder_.save_last(network_, info_, key(), position_);
}

// Validates, if there is data for it, and tells what the epoch came to. False if interrupted before
// the end.
bool TrainRun::finish_epoch() {
  progress_.clear();
  char wait[64];
  std::snprintf(wait, sizeof wait, "input wait %.1f %%",
                100 * epoch_wait_ / std::max(seconds_since(epoch_start_), 1e-6));
  if (!val_) {
    std::cout << "epoch " << epoch() << ": step " << info_.step << ", "
              << duration(seconds_since(start_)) << "  " << wait << std::endl;
  } else if (!validate_epoch(wait)) {
    return false;
  }
  bad_.report(std::cout, position_.bad.size(), bad_in_validation_);
  epoch_start_ = Clock::now();
  epoch_wait_ = 0;
  return true;
}

// All of the validation set, whichever part of the training set this process takes. False if
// interrupted before the end.
bool TrainRun::validate_epoch(const std::string& wait) {
  const auto begin = Clock::now();
  io::LoaderOptions options = options_;
  options.shard = 0;
  options.shards = 1;
  const auto total = static_cast<int64_t>(val_->size());
  const Validation v = validate(network_, *val_, workers_, options, [&](int64_t done) {
    progress_.update(done, total,
                     "validation " + std::to_string(done) + "/" + std::to_string(total), false);
    return !interrupted;
  });
  progress_.clear();
  if (v.stopped) return false;
  bad_.add(*val_, v.bad);
  bad_in_validation_ = v.bad.size();
  require(std::isfinite(v.loss), "the validation loss after step ", info_.step, " is ", v.loss,
          kAdvice);
  log_validation(v, wait);
  validation_seconds_ += seconds_since(begin);
  return true;
}

void TrainRun::log_validation(const Validation& v, const std::string& wait) {
  // The row comes after the file: a run that ends in between validates again when it is resumed.
  const bool best = folder_.save_best(network_, info_, v);
  const double decay = net::Trainer(network_, recipe_).decay_term();
  const double images_per_second = static_cast<double>(v.images) / v.seconds;
  folder_.log({info_.step, epoch(), "val", v.loss + decay, v.loss, 0, v.top1, v.top5,
               images_per_second, seconds_since(start_), v.input_wait / v.seconds,
               static_cast<int64_t>(v.bad.size()), bad_.take_places()});
  char text[256];
  std::snprintf(text, sizeof text,
                "epoch %ld: step %ld  top-1 %.4f  top-5 %.4f  loss %.4f  %.1f images/s  %s  %s%s",
                epoch(), info_.step, v.top1, v.top5, v.loss, images_per_second,
                duration(seconds_since(start_)).c_str(), wait.c_str(), best ? "  best so far" : "");
  std::cout << text << std::endl;
}

// Trains to the end of the run. False if interrupted.
bool TrainRun::train_steps() {
  io::LoaderOptions options = options_;
  options.first_sample = position_.next_sample;
  options.known_bad = position_.bad;
  const auto make = [&] { return io::Loader(train_, workers_, options); };
  io::Loader loader = with_memory_for(args_.batch, info_.model.resolution, make);
  net::Trainer trainer(network_, recipe_, info_.step);
  while (!run_is_complete()) {
    const io::Batch batch = loader.next();
    const net::StepResult result = trainer.step(batch.images.data(), batch.labels);
    info_.step = trainer.steps_done();
    const double wait = note_batch(batch, loader);
    const bool stop = interrupted, ends = epoch_is_complete() || run_is_complete();
    log_step(result, wait, stop || run_is_complete());
    const int64_t every = args_.checkpoint_every_steps;
    if (stop || ends || (every > 0 && info_.step % every == 0)) save(batch);
    if (stop || (ends && !finish_epoch())) return false;
  }
  return true;
}

int TrainRun::run() {
  warn_of_warmup();
  first_step_ = info_.step;
  folder_.open_logs(first_step_);
  if (!args_.resume) bad_.begin_anew();
  start_ = last_row_ = epoch_start_ = Clock::now();
  // A run may have ended between a checkpoint and its validation.
  const bool validated = !validation_is_missing() || finish_epoch();
  const bool done = validated && train_steps();
  progress_.clear();
  if (!done) {
    std::cerr << "interrupted after step " << info_.step << "; go on with --resume --out "
              << args_.out << '\n';
    return kInterruptedStatus;
  }
  std::cout << "checkpoint " << folder_.last() << "\nlog " << (folder_.path() / "log.csv").string()
            << "\nTensorBoard events in " << folder_.path().string() << std::endl;
  return 0;
}

}  // namespace mbconv::bin
