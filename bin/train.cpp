// Trains an EfficientNet on TFRecord files.

#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "bin/bad_list.h"
#include "bin/cli.h"
#include "bin/progress.h"
#include "bin/train_options.h"
#include "io/safetensors.h"

namespace mbconv::bin {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int kInterruptedStatus = 130;
std::atomic<bool> interrupted{false};

void catch_interrupts() {
  for (const int signal : {SIGINT, SIGTERM}) {
    std::signal(signal, [](int caught) {
      // A second one ends the program at once.
      if (interrupted.exchange(true)) std::signal(caught, SIG_DFL);
    });
  }
}

// Means over the steps since the last row of the log.
struct Means {
  int64_t steps = 0;
  double loss = 0, cross_entropy = 0, top1 = 0, top5 = 0, lr = 0;
  double input_wait = 0;  // seconds

  void add(const net::StepResult& r, int batch, double wait) {
    ++steps;
    input_wait += wait;
    loss += r.loss;
    cross_entropy += r.batch.cross_entropy;
    top1 += static_cast<double>(r.batch.top1) / batch;
    top5 += static_cast<double>(r.batch.top5) / batch;
    lr = r.lr;
  }
  LogRow row(int64_t step, int64_t epoch, int batch, double interval, double seconds) const {
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
};

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

class TrainRun {
 public:
  TrainRun(const TrainArgs& args, const net::NetworkConfig& config, RunFolder& folder, Isa isa)
      : args_(args),
        folder_(folder),
        workers_(args.machine.threads),
        train_(open_records(args.train_data, args.records, on_damage(args.faults))),
        network_(config, args.batch, net::Mode::training, workers_, isa),
        bad_(folder.path(), io::parse_fault_policy(args.faults.policy)) {
    if (!args.val_data.empty())
      val_ = std::make_unique<io::RecordSet>(
          open_records(args.val_data, args.records, on_damage(args.faults)));
    info_.model = config.model;
    const bool strict = args.faults.policy == "strict";
    info_.label_offset = label_offset(train_, example_keys(args.records), strict);
    info_.normalisation = normalisation(args);
    options_ = loader_options(args, config.model.resolution, config.model.classes);
    const double by_epochs =
        std::ceil(args.epochs * static_cast<double>(train_.size()) / options_.shards / args.batch);
    recipe_ = args.recipe;
    recipe_.seed = args.seed;
    recipe_.total_steps = args.steps > 0 ? args.steps : static_cast<int64_t>(by_epochs);
  }

  void load(const TensorFile* init);
  void print(std::ostream& out) const;
  int run();

 private:
  // The epoch, from 0, of a sample of the loader.
  int64_t epoch_of(int64_t sample) const {
    return (sample * options_.shards + options_.shard) / static_cast<int64_t>(train_.size());
  }
  RunKey key() const { return {args_.batch, static_cast<int64_t>(train_.size()), args_.seed}; }
  void log_step(const net::StepResult& result, double wait);
  void after_step(const io::Batch& batch, const net::StepResult& result, io::Loader& loader);
  void save();
  void validate_and_save(int64_t epoch);
  Validation validate_now(int64_t epoch);
  void warn(const std::string& text) const { std::cerr << "warning: " << text << '\n'; }

  const TrainArgs& args_;
  RunFolder& folder_;
  Workers workers_;
  io::RecordSet train_;
  std::unique_ptr<io::RecordSet> val_;
  net::EfficientNet network_;
  BadList bad_;
  size_t bad_in_validation_ = 0;
  io::LoaderOptions options_;
  DataPosition position_;     // after the last step
  int64_t first_sample_ = 0;  // of the last step
  net::TrainOptions recipe_;
  net::CheckpointInfo info_;  // info_.step: steps done
  Progress progress_;
  Means means_;
  Clock::time_point start_ = Clock::now(), last_row_ = start_;
  double validation_seconds_ = 0;
  Clock::time_point epoch_start_ = start_;
  double epoch_wait_ = 0;  // seconds
  int64_t first_step_ = 0;
};

void TrainRun::load(const TensorFile* init) {
  if (args_.resume) {
    info_.step = folder_.restore(network_, key(), position_);
    first_sample_ = std::max<int64_t>(position_.next_sample - args_.batch, 0);
    return;
  }
  network_.parameters().initialise(args_.seed);
  if (init == nullptr) return;
  const int classes = net::checkpoint_classes(*init);
  const bool same = classes == info_.model.classes;
  try {
    network_.parameters().load(*init, same ? "" : "classifier.");
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

void TrainRun::log_step(const net::StepResult& result, double wait) {
  means_.add(result, args_.batch, wait);
  const int64_t step = info_.step, total = recipe_.total_steps;
  const bool row_due = step % args_.log_every == 0 || step == total || interrupted;
  const double elapsed = seconds_since(start_);
  const double interval = seconds_since(last_row_) - validation_seconds_;
  const int64_t epoch = epoch_of(first_sample_) + 1;
  LogRow row = means_.row(step, epoch, args_.batch, interval, elapsed);
  const double rate = static_cast<double>(step - first_step_) / elapsed;
  char text[256];
  std::snprintf(text, sizeof text,
                "step %ld/%ld  epoch %ld  loss %.4f  lr %.5f  %.1f images/s  input wait %.1f %%  "
                "%s left",
                step, total, epoch, row.loss, row.lr, row.images_per_second, 100 * row.input_wait,
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

void TrainRun::save() {
  folder_.save_last(network_, info_, key(), position_);
}

void TrainRun::validate_and_save(int64_t epoch) {
  const auto begin = Clock::now();
  save();
  progress_.clear();
  char wait[64];
  std::snprintf(wait, sizeof wait, "input wait %.1f %%",
                100 * epoch_wait_ / seconds_since(epoch_start_));
  char text[256];
  if (!val_) {
    std::snprintf(text, sizeof text, "epoch %ld: step %ld, %s  %s", epoch, info_.step,
                  duration(seconds_since(start_)).c_str(), wait);
    std::cout << text << std::endl;
  } else {
    const Validation v = validate_now(epoch);
    const bool best = folder_.save_best(network_, info_, v);
    std::snprintf(text, sizeof text,
                  "epoch %ld: step %ld  top-1 %.4f  top-5 %.4f  loss %.4f  %.1f images/s  %s  %s%s",
                  epoch, info_.step, v.top1, v.top5, v.loss,
                  static_cast<double>(v.images) / v.seconds,
                  duration(seconds_since(start_)).c_str(), wait, best ? "  best so far" : "");
    std::cout << text << std::endl;
    validation_seconds_ += seconds_since(begin);
  }
  bad_.report(std::cout, position_.bad.size(), bad_in_validation_);
  epoch_start_ = Clock::now();
  epoch_wait_ = 0;
}

// All of the validation set, whichever part of the training set this process takes.
Validation TrainRun::validate_now(int64_t epoch) {
  io::LoaderOptions options = options_;
  options.shard = 0;
  options.shards = 1;
  const auto total = static_cast<int64_t>(val_->size());
  const Validation v = validate(network_, *val_, workers_, options, [&](int64_t done) {
    progress_.update(done, total,
                     "validation " + std::to_string(done) + "/" + std::to_string(total), false);
  });
  progress_.clear();
  bad_.add(*val_, v.bad);
  bad_in_validation_ = v.bad.size();
  folder_.log({info_.step, epoch, "val", v.loss + net::Trainer(network_, recipe_).decay_term(),
               v.loss, 0, v.top1, v.top5, static_cast<double>(v.images) / v.seconds,
               seconds_since(start_), v.input_wait / v.seconds, static_cast<int64_t>(v.bad.size()),
               bad_.take_places()});
  return v;
}

void TrainRun::after_step(const io::Batch& batch, const net::StepResult& result,
                          io::Loader& loader) {
  first_sample_ = batch.first_sample;
  position_.next_sample = batch.next_sample;
  const std::vector<io::BadRecord> bad = loader.take_bad_records();
  if (!bad.empty()) {
    bad_.add(train_, bad);
    position_.bad = loader.bad_records();
  }
  const double wait = loader.take_wait_seconds();
  epoch_wait_ += wait;
  log_step(result, wait);
}

int TrainRun::run() {
  if (recipe_.warmup_steps >= recipe_.total_steps) {
    warn("the warm-up of " + std::to_string(recipe_.warmup_steps) +
         " steps is longer than the run of " + std::to_string(recipe_.total_steps) +
         "; the learning rate will not reach " + std::to_string(recipe_.lr));
  }
  first_step_ = info_.step;
  folder_.open_logs(first_step_);
  options_.first_sample = position_.next_sample;
  options_.known_bad = position_.bad;
  io::Loader loader(train_, workers_, options_);
  net::Trainer trainer(network_, recipe_, info_.step);
  start_ = last_row_ = epoch_start_ = Clock::now();
  bool saved = false;
  while (info_.step < recipe_.total_steps && !interrupted) {
    const io::Batch batch = loader.next();
    const net::StepResult result = trainer.step(batch.images.data(), batch.labels);
    info_.step = trainer.steps_done();
    after_step(batch, result, loader);
    saved = false;
    if (interrupted || info_.step == recipe_.total_steps) break;
    const int64_t epoch = epoch_of(position_.next_sample);
    if (epoch > epoch_of(first_sample_)) {
      validate_and_save(epoch);
      saved = true;
    } else if (args_.checkpoint_every_steps > 0 && info_.step % args_.checkpoint_every_steps == 0) {
      save();
      saved = true;
    }
  }
  progress_.clear();
  if (interrupted) {
    if (!saved) save();
    std::cerr << "interrupted after step " << info_.step << "; go on with --resume --out "
              << args_.out << '\n';
    return kInterruptedStatus;
  }
  validate_and_save(epoch_of(first_sample_) + 1);
  std::cout << "checkpoint " << (folder_.path() / "last.safetensors").string() << "\nlog "
            << (folder_.path() / "log.csv").string() << "\nTensorBoard events in "
            << folder_.path().string() << std::endl;
  return 0;
}

std::string config_json(const CLI::App& app, const net::ModelConfig& model, Isa isa) {
  nlohmann::ordered_json options, json;
  for (const auto& [name, value] : option_values(app)) options[name] = value;
  json["program"] = "train";
  json["version"] = MBCONV_VERSION;
  json["isa"] = name(isa);
  json["network"] = {{"model", model.name},
                     {"width", model.width},
                     {"depth", model.depth},
                     {"resolution", model.resolution},
                     {"classes", model.classes}};
  json["options"] = options;
  return json.dump(2) + "\n";
}

int train(CLI::App& app, TrainArgs& args) {
  std::unique_ptr<RunFolder> folder;
  if (args.resume) {
    folder = std::make_unique<RunFolder>(args.out, true);
    take_options_of_run(app, *folder);
    args.init.clear();
  }
  check_train_options(args);
  const Isa isa = resolve_isa(args.machine);
  std::optional<TensorFile> init;
  if (!args.init.empty()) init = io::read_safetensors(args.init);
  const net::NetworkConfig config = resolve_model(args.model, init ? &*init : nullptr);
  read_class_names(args.records, config.model.classes);
  if (!folder) folder = std::make_unique<RunFolder>(args.out, false);

  show_resolved(app, config.model, isa);
  std::cout << "mbconv train " << MBCONV_VERSION << '\n';
  print_options(std::cout, app);
  TrainRun run(args, config, *folder, isa);
  run.load(init ? &*init : nullptr);
  init.reset();
  run.print(std::cout);
  folder->write_config(config_json(app, config.model, isa));
  catch_interrupts();
  return run.run();
}

}  // namespace
}  // namespace mbconv::bin

int main(int argc, char** argv) {
  mbconv::bin::TrainArgs args;
  CLI::App app("Trains an EfficientNet on TFRecord files of tf.train.Example.", "train");
  add_train_options(app, args);
  return mbconv::bin::run_program(app, argc, argv, [&] { return mbconv::bin::train(app, args); });
}
