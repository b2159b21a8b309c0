#include "bench/peak.h"

#include <atomic>
#include <chrono>

namespace mbconv {

namespace ops {
#define MBCONV_DECLARE(level)                                  \
  namespace level {                                            \
  float peak_fma(long iterations);                             \
  long peak_fma_flops();                                       \
  void copy_stream(const float* from, float* to, long floats); \
  }
MBCONV_DECLARE(generic)
MBCONV_DECLARE(avx2)
MBCONV_DECLARE(avx512)
#undef MBCONV_DECLARE
}  // namespace ops

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Loops {
  float (*fma)(long);
  long (*flops)();
  void (*copy)(const float*, float*, long);
};

Loops loops(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return {ops::avx512::peak_fma, ops::avx512::peak_fma_flops, ops::avx512::copy_stream};
    case Isa::avx2:
      return {ops::avx2::peak_fma, ops::avx2::peak_fma_flops, ops::avx2::copy_stream};
    case Isa::generic:
      break;
  }
  return {ops::generic::peak_fma, ops::generic::peak_fma_flops, ops::generic::copy_stream};
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

double fma_gflops(Workers& workers, Isa isa, double seconds) {
  const Loops l = loops(isa);
  constexpr long kIterations = 20000;  // of an item: short, so that all threads end together
  std::atomic<float> sink{0};
  double flops = 0;
  const auto start = Clock::now();
  do {
    const int items = 32 * workers.threads();
    workers.run(items,
                [&](int, int) { sink.store(l.fma(kIterations), std::memory_order_relaxed); });
    flops += static_cast<double>(items) * static_cast<double>(kIterations) *
             static_cast<double>(l.flops());
  } while (seconds_since(start) < seconds);
  return flops / seconds_since(start) * 1e-9;
}

double copy_gbps(Workers& workers, Isa isa, float* memory, size_t floats) {
  const Loops l = loops(isa);
  constexpr size_t kPiece = size_t{1} << 16;  // 256 KiB: a single picture leaves little memory
  const size_t half = floats / 2 / kPiece * kPiece;
  const auto start = Clock::now();
  workers.run(static_cast<int>(half / kPiece), [&](int item, int) {
    const size_t begin = static_cast<size_t>(item) * kPiece;
    l.copy(memory + begin, memory + half + begin, static_cast<long>(kPiece));
  });
  return 2.0 * static_cast<double>(half) * sizeof(float) / seconds_since(start) * 1e-9;
}

}  // namespace bench
}  // namespace mbconv
