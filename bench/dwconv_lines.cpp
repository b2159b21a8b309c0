#include "bench/dwconv_lines.h"

#include "bench/kernels.h"

namespace mbconv::bench {
namespace {

// Independent repetitions in a call, shared by the threads, of so many lines each.
constexpr int kRepeats = 8, kLines = 32;

// run(kernels, scratch) computes a line: `macs` for each of its kLane channels.
template <class Run>
Case repeated(size_t scratch, int macs, const Run& run) {
  Case c;
  c.run = [=](const ops::Context& context) {
    const Kernels& kernel = kernels(context.isa);
    context.workers->run(kRepeats, [&](int, int worker) {
      for (int i = 0; i < kLines; ++i) run(kernel, context.worker_scratch(worker));
    });
  };
  c.scratch = scratch;
  c.macs = double{kRepeats * kLines * kLane} * macs;
  return c;
}

}  // namespace

Case dwconv_line_forward(const Layer& layer, int) {
  const int k = layer.ksize, s = layer.stride, outputs = layer.y.w;
  const ptrdiff_t x = ptrdiff_t{k} * ((outputs - 1) * s + k) * kLane;
  const ptrdiff_t w = ptrdiff_t{k} * k * kLane;
  return repeated(static_cast<size_t>(x + w + outputs * kLane), outputs * k * k,
                  [=](const Kernels& kernel, float* scratch) {
                    kernel.dwconv_line_forward(k, s, outputs, scratch, scratch + x,
                                               scratch + x + w);
                  });
}

Case dwconv_line_backward_filter(const Layer& layer, int) {
  const int k = layer.ksize, s = layer.stride, taps = (k + s - 1) / s, pixels = layer.y.w;
  const ptrdiff_t a = ptrdiff_t{pixels} * s * kLane;
  const ptrdiff_t dy = ptrdiff_t{taps} * (pixels + taps - 1) * kLane;
  return repeated(static_cast<size_t>(a + dy + taps * taps * kLane), pixels * taps * taps,
                  [=](const Kernels& kernel, float* scratch) {
                    kernel.dwconv_line_backward_filter(k, s, pixels, scratch, scratch + a,
                                                       scratch + a + dy);
                  });
}

std::string dwconv_line_name(const Layer& layer) {
  return "w" + std::to_string(layer.y.w) + "_k" + std::to_string(layer.ksize) + "_s" +
         std::to_string(layer.stride);
}

}  // namespace mbconv::bench
