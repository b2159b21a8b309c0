// Trains an EfficientNet on TFRecord files.

#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <iostream>

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
constexpr const char* kAdvice = "; a lower learning rate or a longer warm-up may help";
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

  void add(const net::StepResult& r, int batch) {
    ++steps;
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
            seconds};
  }
};

// What is subtracted from stored labels, as the first record shows.
int64_t label_offset(const io::RecordSet& records, const io::ExampleKeys& keys) {
  std::vector<std::byte> record;
  records.read(0, record);
  try {
    return io::parse_labelled_image(record, keys).label_offset;
  } catch (const Error& e) {
    throw Error(records.describe(0), ": ", e.what());
  }
}

class TrainRun {
 public:
  TrainRun(const TrainArgs& args, const net::NetworkConfig& config, RunFolder& folder, Isa isa)
      : args_(args),
        folder_(folder),
        workers_(args.machine.threads),
        train_(args.train_data),
        val_(args.val_data.empty() ? nullptr : std::make_unique<io::RecordSet>(args.val_data)),
        network_(with_memory_for(args.batch, config.model.resolution, [&] {
          return net::EfficientNet(config, args.batch, net::Mode::training, workers_, isa);
        })) {
    info_.model = config.model;
    info_.label_offset = label_offset(train_, example_keys(args.records));
    info_.label_offset_given = args.records.label_offset.has_value();
    info_.normalisation = args.normalisation;
    const double by_epochs =
        std::ceil(args.epochs * static_cast<double>(train_.size()) / args.batch);
    recipe_ = args.recipe;
    recipe_.seed = args.seed;
    recipe_.total_steps = args.steps > 0 ? args.steps : static_cast<int64_t>(by_epochs);
  }

  // Parameters: those of `weights`, the checkpoint of the run or the file of --init, or initial.
  void load(const TensorFile* weights);
  void print(std::ostream& out) const;
  int run();

 private:
  int64_t epoch_after(int64_t steps) const {
    return steps * args_.batch / static_cast<int64_t>(train_.size());
  }
  RunKey key() const { return {args_.batch, static_cast<int64_t>(train_.size()), args_.seed}; }
  // The epoch, from 1, of the last step; whether it is complete.
  int64_t epoch() const { return epoch_after(std::max<int64_t>(info_.step - 1, 0)) + 1; }
  bool epoch_is_complete() const { return epoch_after(info_.step) >= epoch(); }
  bool run_is_complete() const { return info_.step >= recipe_.total_steps; }
  bool validation_is_missing() const {
    return val_ && info_.step > 0 && (epoch_is_complete() || run_is_complete()) &&
           !folder_.has_validation(info_.step);
  }
  void warn_of_warmup() const;
  void log_step(const net::StepResult& result, bool last);
  bool train_steps();
  bool finish_epoch();
  void log_validation(const Validation& v);
  void save(const io::Batch& batch);

  const TrainArgs& args_;
  RunFolder& folder_;
  Workers workers_;
  io::RecordSet train_;
  std::unique_ptr<io::RecordSet> val_;
  net::EfficientNet network_;
  net::TrainOptions recipe_;
  net::CheckpointInfo info_;  // info_.step: steps done
  Progress progress_;
  Means means_;
  Clock::time_point start_ = Clock::now(), last_row_ = start_;
  double validation_seconds_ = 0;
  int64_t first_step_ = 0;
};

void TrainRun::load(const TensorFile* weights) {
  if (args_.resume) {
    info_.step = folder_.restore(network_, *weights, key());
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

// `last`: no step comes after it.
void TrainRun::log_step(const net::StepResult& result, bool last) {
  means_.add(result, args_.batch);
  const int64_t step = info_.step, total = recipe_.total_steps;
  const bool row_due = step % args_.log_every == 0 || last;
  const double elapsed = seconds_since(start_);
  const double interval = seconds_since(last_row_) - validation_seconds_;
  const LogRow row = means_.row(step, epoch(), args_.batch, interval, elapsed);
  const double rate = static_cast<double>(step - first_step_) / elapsed;
  char text[256];
  std::snprintf(text, sizeof text,
                "step %ld/%ld  epoch %ld  loss %.4f  lr %.5f  %.1f images/s  %s left", step, total,
                epoch(), row.loss, row.lr, row.images_per_second,
                duration(static_cast<double>(total - step) / rate).c_str());
  progress_.update(step, total, text, row_due);
  if (!row_due) return;
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
  folder_.save_last(network_, info_, key());
}

// Validates, if there is data for it. False if interrupted before the end.
bool TrainRun::finish_epoch() {
  const auto begin = Clock::now();
  progress_.clear();
  if (!val_) {
    std::cout << "epoch " << epoch() << ": step " << info_.step << ", "
              << duration(seconds_since(start_)) << std::endl;
    return true;
  }
  const io::LoaderOptions options =
      loader_options(args_, info_.model.resolution, info_.model.classes);
  const auto total = static_cast<int64_t>(val_->size());
  const Validation v = validate(network_, *val_, workers_, options, [&](int64_t done) {
    progress_.update(done, total,
                     "validation " + std::to_string(done) + "/" + std::to_string(total), false);
    return !interrupted;
  });
  progress_.clear();
  if (v.stopped) return false;
  require(std::isfinite(v.loss), "the validation loss after step ", info_.step, " is ", v.loss,
          kAdvice);
  log_validation(v);
  validation_seconds_ += seconds_since(begin);
  return true;
}

void TrainRun::log_validation(const Validation& v) {
  // The row comes after the file: a run that ends in between validates again when it is resumed.
  const bool best = folder_.save_best(network_, info_, v);
  const double decay = net::Trainer(network_, recipe_).decay_term();
  const double images_per_second = static_cast<double>(v.images) / v.seconds;
  folder_.log({info_.step, epoch(), "val", v.loss + decay, v.loss, 0, v.top1, v.top5,
               images_per_second, seconds_since(start_)});
  char text[256];
  std::snprintf(text, sizeof text,
                "epoch %ld: step %ld  top-1 %.4f  top-5 %.4f  loss %.4f  %.1f images/s  %s%s",
                epoch(), info_.step, v.top1, v.top5, v.loss, images_per_second,
                duration(seconds_since(start_)).c_str(), best ? "  best so far" : "");
  std::cout << text << std::endl;
}

// Trains to the end of the run. False if interrupted.
bool TrainRun::train_steps() {
  const auto make = [&] {
    io::LoaderOptions options = loader_options(args_, info_.model.resolution, info_.model.classes);
    options.first_sample = info_.step * args_.batch;
    return io::Loader(train_, workers_, options);
  };
  io::Loader loader = with_memory_for(args_.batch, info_.model.resolution, make);
  net::Trainer trainer(network_, recipe_, info_.step);
  while (!run_is_complete()) {
    const io::Batch batch = loader.next();
    const net::StepResult result = trainer.step(batch.images.data(), batch.labels);
    info_.step = trainer.steps_done();
    const bool stop = interrupted, ends = epoch_is_complete() || run_is_complete();
    log_step(result, stop || run_is_complete());
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
  start_ = last_row_ = Clock::now();
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

int train(CLI::App& app, TrainArgs& args) {
  RunFolder folder(args.out, args.resume);
  if (args.resume) {
    if (!args.init.empty()) throw UsageError("--init and --resume exclude each other");
    try {
      take_options_of_run(app, folder.read_config());
    } catch (const Error& e) {
      throw Error("cannot resume ", args.out, ": ", e.what());
    }
    args.init.clear();  // it stays among the printed options
  }
  check_train_options(args);
  const Isa isa = resolve_isa(args.machine);
  const std::string source = args.resume ? folder.last() : args.init;
  std::optional<TensorFile> weights;
  if (!source.empty()) weights = io::read_safetensors(source);
  const net::NetworkConfig config =
      resolve_model(args.model, weights ? &*weights : nullptr, source);

  show_resolved(app, config.model, isa);
  std::cout << "mbconv train " << MBCONV_VERSION << '\n';
  print_options(std::cout, app);
  TrainRun run(args, config, folder, isa);
  run.load(weights ? &*weights : nullptr);
  weights.reset();
  run.print(std::cout);
  folder.create();
  folder.write_config(config_json(app, config.model, isa));
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
