// Times every pass of every distinct layer at every level of this CPU, beside the machine's peak
// measured in the same run:
//   PASS/VARIANT/MODE/NETWORK_LAYER/SHAPE
// Layers of inference have names of their own, b0_r224_inference.head, where they run otherwise.
// Modes:
//   tile   one unit of channels and as many lines as fit half of a core's second-level cache, or
//          a tile or lines of a micro-kernel alone
//   warm   one image, or as many lines of it as fit half of the last-level cache
//   cold   batches, and copies of them in turns, that together are twice the last-level cache
// Counters are those of the fastest call: GFLOP/s, GB/s (each tensor counted once), and both in
// percent of the peak of fused multiply-adds and of copying memory, the highest of several
// measurements right before and after with the same threads. What is in cache may be read faster
// than memory is copied.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>

#include "bench/case.h"
#include "bench/dwconv_lines.h"
#include "bench/gemm.h"
#include "bench/machine.h"
#include "bench/peak.h"
#include "lib/error.h"
#include "ops/conv1x1.h"
#include "ops/dwconv.h"
#include "ops/pool.h"
#include "ops/project.h"
#include "ops/stem.h"

namespace mbconv::bench {
namespace {

enum class Mode { tile, warm, cold };
constexpr int kMaxBatch = 64;

// A variant of a pass.
struct Level {
  Isa isa;
  std::string name;
};

template <class Function>
std::vector<Level> levels(std::span<const ops::Variant<Function>> variants) {
  std::vector<Level> all;
  for (const auto& variant : variants) {
    if (variant.isa <= host_isa()) all.push_back({variant.isa, std::string(variant.name)});
  }
  return all;
}

struct Pass {
  std::string name;
  Layer::Op op;
  MakeCase* make;
  std::vector<Level> levels;
  std::vector<Mode> modes;

  bool runs(const Layer& layer) const {
    return op == layer.op && !(layer.inference && name.ends_with("_backward"));
  }
};

std::vector<Pass> passes() {
  using Op = Layer::Op;
  const std::vector<Mode> whole = {Mode::warm, Mode::cold};
  const std::vector<Mode> all = {Mode::tile, Mode::warm, Mode::cold};
  return {
      {"stem_forward", Op::stem, stem_forward, levels(ops::stem_forward_variants()), whole},
      {"stem_backward", Op::stem, stem_backward, levels(ops::stem_backward_variants()), whole},
      {"conv1x1_forward", Op::conv1x1, conv1x1_forward, levels(ops::conv1x1_forward_variants()),
       whole},
      {"conv1x1_backward", Op::conv1x1, conv1x1_backward, levels(ops::conv1x1_backward_variants()),
       whole},
      {"dwconv_plain",
       Op::dwconv,
       dwconv_plain,
       levels(ops::dwconv_forward_variants()),
       {Mode::tile}},
      {"dwconv_forward", Op::dwconv, dwconv_forward, levels(ops::dwconv_forward_variants()), all},
      {"dwconv_backward", Op::dwconv, dwconv_backward, levels(ops::dwconv_backward_variants()),
       all},
      {"project_forward", Op::project, project_forward, levels(ops::conv1x1_forward_variants()),
       whole},
      {"project_backward", Op::project, project_backward, levels(ops::project_backward_variants()),
       whole},
      {"pool_forward", Op::pool, pool_forward, levels(ops::pool_variants()), whole},
      {"inverted_residual_forward", Op::block, inverted_residual_forward,
       levels(ops::conv1x1_forward_variants()), whole},
  };
}

// A layer in a cache mode: what is timed. The map is cropped and the batch chosen by the bytes of
// one image's tensors, input and output once each.
struct Job {
  Layer layer;
  int n = 1;
  MakeCase* make;
  Isa isa;
  Mode mode;
};

Job make_job(const Pass& pass, const Layer& layer, Isa isa, Mode mode) {
  Job job{layer, 1, pass.make, isa, mode};
  const Caches cache = caches();
  if (mode == Mode::cold) {
    while (job.n < kMaxBatch && static_cast<size_t>(job.n) * layer.bytes() < 2 * cache.last)
      job.n *= 2;
    return job;
  }
  if (mode == Mode::tile) job.layer = layer.of_channels(kWideBlock);
  // A backward pass has each tensor twice or three times.
  const size_t room = (mode == Mode::tile ? cache.second : cache.last) / 2;
  const size_t line = 3 * job.layer.bytes() / static_cast<size_t>(layer.y.h) + 1;
  job.layer = job.layer.cropped(std::max<int>(1, static_cast<int>(room / line)));
  return job;
}

class Bench {
 public:
  explicit Bench(int threads)
      : workers_(threads), copied_(std::max(4 * caches().last, size_t{128} << 20)) {
    // Memory that was never written would be read as one page of zeros.
    std::fill_n(copied_.as<float>(), copied_.size() / sizeof(float), 1.0f);
  }

  void time(benchmark::State& state, const std::string& name, const Job& job);

 private:
  struct Yardsticks {
    double gflops, gbps;
  };
  // Raises them to what is measured now.
  void measure(Isa isa) {
    constexpr int kAttempts = 10;  // as a busy neighbour leaves few of them undisturbed
    constexpr double kPeakSeconds = 0.001;
    for (int i = 0; i < kAttempts; ++i)
      most_.gflops = std::max(most_.gflops, fma_gflops(workers_, isa, kPeakSeconds));
    float* memory = copied_.as<float>();
    const double gbps = copy_gbps(workers_, isa, memory, copied_.size() / sizeof(float));
    most_.gbps = std::max(most_.gbps, gbps);
  }
  void prepare(const std::string& name, const Job& job);

  Workers workers_;
  Buffer copied_;
  // Of the benchmark that runs: it is called several times.
  std::string current_;
  Yardsticks most_{};
  std::vector<Case> cases_;
  std::unique_ptr<Memory> scratch_;
  ops::Context context_{};
};

void Bench::prepare(const std::string& name, const Job& job) {
  if (current_ == name) return;
  cases_.clear();
  size_t bytes = 0;
  do {
    cases_.push_back(job.make(job.layer, job.n));
    bytes += cases_.back().memory.bytes();
  } while (job.mode == Mode::cold && bytes < 2 * caches().last);
  const size_t floats = (cases_[0].scratch + kLane - 1) / kLane * kLane;
  scratch_ = std::make_unique<Memory>();
  context_ = {job.isa, &workers_,
              scratch_->floats(floats * static_cast<size_t>(workers_.threads()) + 1), floats};
  cases_[0].run(context_);
  current_ = name;
  most_ = {};
}

void Bench::time(benchmark::State& state, const std::string& name, const Job& job) {
  using Clock = std::chrono::steady_clock;
  prepare(name, job);
  measure(job.isa);
  size_t next = 0;
  double fastest = 1e30;
  for (auto _ : state) {
    const auto start = Clock::now();
    cases_[next].run(context_);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    state.SetIterationTime(seconds);
    fastest = std::min(fastest, seconds);
    if (++next == cases_.size()) next = 0;
  }
  measure(job.isa);
  const double gflops = 2e-9 * cases_[0].macs / fastest;
  const double gbps = 1e-9 * static_cast<double>(cases_[0].memory.tensor_bytes()) / fastest;
  if (gflops > 0) {
    state.counters["GFLOP/s"] = gflops;
    state.counters["peak%"] = 100 * gflops / most_.gflops;
  }
  if (gbps > 0) {
    state.counters["GB/s"] = gbps;
    state.counters["copy%"] = 100 * gbps / most_.gbps;
  }
}

void add(Bench& bench, const std::string& name, const Job& job) {
  benchmark::RegisterBenchmark(
      name.c_str(), [&bench, name, job](benchmark::State& state) { bench.time(state, name, job); })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

std::string mode_name(Mode mode) {
  return mode == Mode::tile ? "tile" : mode == Mode::warm ? "warm" : "cold";
}

// The micro-kernels of a layer alone.
void add_kernels(Bench& bench, const Layer& layer) {
  using Op = Layer::Op;
  const auto add_kernel = [&](const char* kernel, MakeCase* make, const std::string& shape,
                              const std::vector<Level>& of) {
    for (const Level& level : of) {
      add(bench, std::string(kernel) + "/" + level.name + "/tile/" + layer.name + "/" + shape,
          {layer, 1, make, level.isa, Mode::tile});
    }
  };
  if ((layer.op == Op::conv1x1 || layer.op == Op::project) && layer.norm) {
    const std::vector<Level> of = levels(ops::conv1x1_forward_variants());
    add_kernel("gemm_forward", gemm_forward, gemm_name(layer), of);
    add_kernel("gemm_backward_input", gemm_backward_input, gemm_name(layer), of);
    add_kernel("gemm_backward_filter", gemm_backward_filter, gemm_name(layer), of);
  }
  if (layer.op == Op::dwconv) {
    const std::vector<Level> of = levels(ops::dwconv_forward_variants());
    add_kernel("dwconv_line_forward", dwconv_line_forward, dwconv_line_name(layer), of);
    add_kernel("dwconv_line_backward_filter", dwconv_line_backward_filter, dwconv_line_name(layer),
               of);
  }
}

void add_layer(Bench& bench, const Layer& layer) {
  for (const Pass& pass : passes()) {
    if (!pass.runs(layer)) continue;
    for (const Level& level : pass.levels) {
      for (const Mode mode : pass.modes) {
        // Loops of the reference never wait for memory.
        if (level.isa == Isa::generic && mode == Mode::cold) continue;
        const Job job = make_job(pass, layer, level.isa, mode);
        add(bench,
            pass.name + "/" + level.name + "/" + mode_name(mode) + "/" + layer.name + "/" +
                job.layer.shape_name(job.n),
            job);
      }
    }
  }
  add_kernels(bench, layer);
}

// Removes --threads=N from the arguments.
int take_threads(std::vector<std::string>& arguments) {
  const std::string option = "--threads=";
  for (auto argument = arguments.begin(); argument != arguments.end(); ++argument) {
    if (!argument->starts_with(option)) continue;
    const int threads = std::atoi(argument->c_str() + option.size());
    require(threads >= 1, *argument, ": expected a number of threads of at least 1");
    arguments.erase(argument);
    return threads;
  }
  return 1;
}

int run(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const int threads = take_threads(arguments);
  // Of several values of an option the last one counts.
  arguments.insert(arguments.begin(),
                   {argv[0], "--benchmark_filter=/b0_r", "--benchmark_min_time=0.05"});
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  int count = static_cast<int>(pointers.size());
  benchmark::Initialize(&count, pointers.data());
  if (benchmark::ReportUnrecognizedArguments(count, pointers.data())) return 2;
  benchmark::AddCustomContext("cpu", cpu_name());
  benchmark::AddCustomContext("isa", std::string(name(host_isa())));
  benchmark::AddCustomContext("threads", std::to_string(threads));

  Bench bench(threads);
  const std::pair<const char*, int> networks[] = {
      {"b0", 224}, {"b0", 64}, {"b4", 380}, {"b7", 600}};
  for (const auto& [model, resolution] : networks) {
    for (const Layer& layer : layers(network(model, resolution))) add_layer(bench, layer);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace mbconv::bench

int main(int argc, char** argv) {
  try {
    return mbconv::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ops_bench: %s\n", error.what());
    return 1;
  }
}
