// Times whole training steps or inference passes beside the machine's peak measured in the same
// run.

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>

#include "bench/figures.h"
#include "bench/machine.h"
#include "bench/peak.h"
#include "bin/cli.h"
#include "bin/options.h"
#include "lib/rng.h"
#include "net/trainer.h"

namespace mbconv::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Args {
  int batch = 64, steps = 10, warmup = 2;
  bool inference = false, profile = false;
  std::string json;
  bin::ModelOptions model;
  bin::MachineOptions machine;
};

// Synthetic pictures and labels.
struct Input {
  std::vector<float> images;
  std::vector<int32_t> labels;

  Input(const net::ModelConfig& model, int batch) {
    Rng rng(1, 0, 0, Purpose::synthetic);
    images.resize(static_cast<size_t>(batch) * static_cast<size_t>(model.resolution) *
                  static_cast<size_t>(model.resolution) * 3);
    for (float& v : images) v = rng.uniform(-1.7f, 1.7f);
    for (int i = 0; i < batch; ++i) labels.push_back(i % model.classes);
  }
};

struct Figures {
  double images_per_second, gflops, peak_gflops, copy_gbps, issue_rate, bytes_per_image;
  double fraction() const { return gflops / peak_gflops; }
};

int64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

class StepBench {
 public:
  StepBench(const Args& args, const net::NetworkConfig& config, Isa isa)
      : args_(args),
        workers_(args.machine.threads),
        input_(config.model, args.batch),
        network_(config, args.batch, args.inference ? net::Mode::inference : net::Mode::training,
                 workers_, isa) {
    network_.parameters().initialise(1);
    net::TrainOptions options;
    options.lr = 1e-3;
    options.total_steps = 1 << 30;
    if (!args.inference) trainer_ = std::make_unique<net::Trainer>(network_, options);
  }

  Figures run();
  void print_profile(const Figures& figures) const;
  net::EfficientNet& network() { return network_; }

 private:
  double step();

  const Args& args_;
  Workers workers_;
  Input input_;
  net::EfficientNet network_;
  std::unique_ptr<net::Trainer> trainer_;
  double total_seconds_ = 0;
};

double StepBench::step() {
  const auto start = Clock::now();
  if (args_.inference) {
    network_.infer(input_.images.data());
  } else {
    trainer_->step(input_.images.data(), input_.labels);
  }
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Figures StepBench::run() {
  constexpr double kPeakSeconds = 0.1;
  const Isa isa = network_.context().isa;
  const std::span<float> idle = network_.idle_memory();
  for (int i = 0; i < args_.warmup; ++i) step();
  network_.profile().enable(args_.profile);
  // Yardsticks and steps take turns, as the machine's speed drifts.
  std::vector<double> seconds, peaks, copies, issues;
  for (int i = 0; i < args_.steps; ++i) {
    peaks.push_back(fma_gflops(workers_, isa, kPeakSeconds));
    copies.push_back(copy_gbps(workers_, isa, idle.data(), idle.size()));
    issues.push_back(issue_rate(workers_));
    seconds.push_back(step());
    total_seconds_ += seconds.back();
  }
  const net::Counts counts = net::count(network_.config());
  Figures f{};
  f.images_per_second = args_.batch / median(seconds);
  f.gflops = f.images_per_second * 2e-9 *
             static_cast<double>(args_.inference ? counts.inference_macs : counts.training_macs);
  f.peak_gflops = median(peaks);
  f.copy_gbps = median(copies);
  f.issue_rate = median(issues);
  for (const Profile::Record& r : network_.profile().records())
    f.bytes_per_image += r.cost.bytes / args_.batch;
  return f;
}

void StepBench::print_profile(const Figures& f) const {
  const auto& records = const_cast<StepBench*>(this)->network_.profile().records();
  double passes = 0;
  std::map<std::string, double> kinds;
  std::printf("%-32s %9s %9s %9s %7s %7s %6s  %s\n", "pass", "ms", "GFLOP/s", "GB/s", "share",
              "items", "peak", "bound");
  for (const Profile::Record& r : records) {
    const double s = r.seconds / args_.steps;
    passes += s;
    kinds[r.cost.kind] += s;
    const double gflops = 2e-9 * r.cost.macs / s, gbps = 1e-9 * r.cost.bytes / s;
    const double compute = gflops / f.peak_gflops,
                 memory = f.copy_gbps > 0 ? gbps / f.copy_gbps : 0;
    std::printf("%-32s %9.3f %9.1f %9.1f %6.1f%% %7d %5.2f  %s %.2f\n", r.cost.name.c_str(),
                1e3 * s, gflops, gbps, 100 * r.seconds / total_seconds_, r.cost.items, compute,
                compute >= memory ? "compute" : "memory", std::max(compute, memory));
  }
  std::printf("%-32s %9.3f\n", "outside of passes", 1e3 * (total_seconds_ / args_.steps - passes));
  for (const auto& [kind, s] : kinds) {
    std::printf("  %-30s %9.3f %36.1f%%\n", kind.c_str(), 1e3 * s,
                100 * s * args_.steps / total_seconds_);
  }
}

nlohmann::ordered_json json_of(const Args& args, const net::NetworkConfig& config, Isa isa,
                               const Figures& f) {
  return {
      {"model", config.model.name},
      {"resolution", config.model.resolution},
      {"batch", args.batch},
      {"mode", args.inference ? "inference" : "training"},
      {"images_per_second", f.images_per_second},
      {"gflops", f.gflops},
      {"peak_gflops", f.peak_gflops},
      {"fraction_of_peak", f.fraction()},
      {"copy_gbps", f.copy_gbps},
      {"issue_rate", f.issue_rate},
      {"estimated_bytes_per_image", f.bytes_per_image},
      {"peak_rss_bytes", peak_rss_bytes()},
      {"isa", name(isa)},
      {"threads", args.machine.threads},
      {"steps", args.steps},
      {"cpu", cpu_name()},
  };
}

int run(const Args& args) {
  const Isa isa = bin::resolve_isa(args.machine);
  const net::NetworkConfig config = bin::resolve_model(args.model, nullptr);
  StepBench bench(args, config, isa);
  std::printf("%s, %s, %d threads: %s %s, %d pixels, batch %d\n", cpu_name().c_str(),
              std::string(name(isa)).c_str(), args.machine.threads, config.model.name.c_str(),
              args.inference ? "inference" : "training", config.model.resolution, args.batch);
  const Figures f = bench.run();
  if (args.profile) bench.print_profile(f);
  std::printf(
      "%.1f images/s  %.1f GFLOP/s  %.3f of the peak of %.1f GFLOP/s  copy %.1f GB/s  issue %.1f a "
      "cycle  %.1f MB an image estimated  %.0f MiB resident at most\n",
      f.images_per_second, f.gflops, f.fraction(), f.peak_gflops, f.copy_gbps, f.issue_rate,
      f.bytes_per_image * 1e-6, static_cast<double>(peak_rss_bytes()) / (1 << 20));
  if (!args.json.empty()) write_json(args.json, json_of(args, config, isa, f));
  return 0;
}

}  // namespace
}  // namespace mbconv::bench

int main(int argc, char** argv) {
  using namespace mbconv;
  bench::Args args;
  bin::Options app("Times training steps or inference beside the machine's peak.", "step_bench");
  const char* group = "Measurement";
  app.add("--batch", args.batch, "Images a step").between(1, 1 << 20).show_default().group(group);
  app.add("--steps", args.steps, "Measured steps").between(1, 1e6).show_default().group(group);
  app.add("--warmup", args.warmup, "Steps before those")
      .between(0, 1e6)
      .show_default()
      .group(group);
  app.add_flag("--inference", args.inference, "Forward passes in inference").group(group);
  app.add_flag("--profile", args.profile, "A table of all passes").group(group);
  app.add("--json", args.json, "File for the figures").group(group);
  bin::add_model_options(app, args.model);
  bin::add_machine_options(app, args.machine);
  return bin::run_program(app, argc, argv, [&] { return bench::run(args); });
}
