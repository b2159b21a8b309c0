#include "bench/dwconv_lines.h"

#include "bench/kernels.h"

namespace mbconv::bench {
namespace {

// Independent repetitions in a call, shared by the threads, of so many lines each.
constexpr int kRepeats = 8, kLines = 32;

// `macs` of a line of kLane channels; run(kernels, scratch) computes it.
template <class Run>
Case repeated(size_t scratch, double macs, const Run& run) {
  Case c;
  c.run = [=](const ops::Context& context) {
    const Kernels& kernel = kernels(context.isa);
    context.workers->run(kRepeats, [&](int, int worker) {
      for (int i = 0; i < kLines; ++i) run(kernel, context.worker_scratch(worker));
    });
  };
  c.scratch = scratch;
  c.macs = kRepeats * kLines * macs * kLane;
  return c;
}

}  // namespace

Case dwconv_line_forward(const Layer& layer, int) {
  const int k = layer.ksize, s = layer.stride, outputs = layer.y.w;
  const ptrdiff_t x = ptrdiff_t{k} * ((outputs - 1) * s + k) * kLane;
  const ptrdiff_t w = ptrdiff_t{k} * k * kLane;
  return repeated(static_cast<size_t>(x + w + outputs * kLane), double{1} * outputs * k * k,
                  [=](const Kernels& kernel, float* scratch) {
                    kernel.dwconv_line_forward(k, s, outputs, scratch, scratch + x,
                                               scratch + x + w);
                  });
}

Case dwconv_line_backward_filter(const Layer& layer, int) {
  const int k = layer.ksize, s = layer.stride, taps = (k + s - 1) / s, pixels = layer.y.w;
  const ptrdiff_t a = ptrdiff_t{pixels} * s * kLane;
  const ptrdiff_t dy = ptrdiff_t{taps} * (pixels + taps - 1) * kLane;
  return repeated(static_cast<size_t>(a + dy + taps * taps * kLane),
                  double{1} * pixels * taps * taps, [=](const Kernels& kernel, float* scratch) {
                    kernel.dwconv_line_filter(k, s, pixels, scratch, scratch + a, scratch + a + dy);
                  });
}

std::string dwconv_line_name(const Layer& layer) {
  return "w" + std::to_string(layer.y.w) + "_k" + std::to_string(layer.ksize) + "_s" +
         std::to_string(layer.stride);
}

}  // namespace mbconv::bench
