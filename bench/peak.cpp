#include "bench/peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <vector>

#include "bench/kernels.h"

namespace mbconv::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Seconds of `count` dependent multiplications, of 3 cycles each on every CPU with AVX2.
double seconds_of_chain(long count) {
  const auto start = Clock::now();
  long x = 1;
  asm volatile(
      "1: imul %1, %1\n"
      "imul %1, %1\n"
      "imul %1, %1\n"
      "imul %1, %1\n"
      "sub $4, %0\n"
      "ja 1b"
      : "+r"(count), "+r"(x));
  return seconds_since(start);
}

// Seconds of `count` instructions that do nothing.
double seconds_of_nops(long count) {
  const auto start = Clock::now();
  asm volatile(
      "1: .rept 22\n"
      "nop\n"
      ".endr\n"
      "sub $24, %0\n"
      "ja 1b"
      : "+r"(count));
  return seconds_since(start);
}

}  // namespace

double fma_gflops(Workers& workers, Isa isa, double seconds) {
  const Kernels& kernel = kernels(isa);
  constexpr long kIterations = 20000;  // of an item: short, so that all threads end together
  std::atomic<float> sink{0};
  double flops = 0;
  const auto start = Clock::now();
  do {
    const int items = 32 * workers.threads();
    workers.run(items, [&](int, int) {
      sink.store(kernel.peak_fma(kIterations), std::memory_order_relaxed);
    });
    flops += static_cast<double>(items) * static_cast<double>(kIterations) *
             static_cast<double>(kernel.peak_fma_flops());
  } while (seconds_since(start) < seconds);
  return flops / seconds_since(start) * 1e-9;
}

double copy_gbps(Workers& workers, Isa isa, float* memory, size_t floats) {
  const Kernels& kernel = kernels(isa);
  constexpr size_t kMostFloats = size_t{1} << 16, kItems = 16;  // of an item, at least of them
  // At least: the memory of a small network is copied sooner.
  constexpr double kSeconds = 0.001;
  const size_t piece = std::min(kMostFloats, floats / 2 / kItems / kLane * kLane);
  if (piece == 0) return 0;
  const size_t half = floats / 2 / piece * piece;
  double bytes = 0;
  const auto start = Clock::now();
  do {
    workers.run(static_cast<int>(half / piece), [&](int item, int) {
      const size_t begin = static_cast<size_t>(item) * piece;
      kernel.copy_stream(memory + begin, memory + half + begin, static_cast<long>(piece));
    });
    bytes += 2.0 * static_cast<double>(half) * sizeof(float);
  } while (seconds_since(start) < kSeconds);
  return bytes / seconds_since(start) * 1e-9;
}

double issue_rate(Workers& workers) {
  constexpr long kMultiplications = 32000, kNops = 480000;
  constexpr int kLatency = 3, kRounds = 4;
  std::vector<double> rates(static_cast<size_t>(workers.threads()));
  workers.run(workers.threads(), [&](int item, int) {
    double cycle = std::numeric_limits<double>::max(), nops = 0;
    for (int i = 0; i < kRounds; ++i) {
      cycle = std::min(cycle, seconds_of_chain(kMultiplications) / (kMultiplications * kLatency));
      nops += seconds_of_nops(kNops);
    }
    rates[static_cast<size_t>(item)] = kRounds * kNops / nops * cycle;
  });
  double sum = 0;
  for (const double rate : rates) sum += rate;
  return sum / workers.threads();
}

}  // namespace mbconv::bench
