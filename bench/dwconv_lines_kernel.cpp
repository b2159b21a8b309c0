// Depthwise lines at one ISA level: see ops/simd.h.

#include "ops/dwconv_unit.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// `count` lines in a row, `pixels` long each.
struct Rows {
  ptrdiff_t offset[kMaxTaps];
  Rows(int count, int pixels) {
    for (int r = 0; r < count; ++r) offset[r] = ptrdiff_t{r} * pixels * kLane;
  }
};

}  // namespace

void dwconv_line_forward(int ksize, int stride, int outputs, const float* x, const float* w,
                         float* y) {
  with_kind(ksize, stride, false, [&](auto k, auto s, auto) {
    constexpr int K = decltype(k)::value, S = decltype(s)::value;
    const Rows rows(K, (outputs - 1) * S + K);
    dwconv_line<K, S>({x, rows.offset, w, K * kLane, K}, outputs,
                      StoreLine<false>{y, kLane, nullptr, nullptr});
  });
}

void dwconv_line_backward_filter(int ksize, int stride, int pixels, const float* a, const float* dy,
                                 float* dw) {
  with_kind(ksize, stride, false, [&](auto k, auto s, auto) {
    constexpr int S = decltype(s)::value, T = (decltype(k)::value + S - 1) / S;
    const Rows rows(T, pixels + T - 1);
    dwconv_filter_lines<T, S>(a, {dy, rows.offset, nullptr, T * kLane, T}, pixels, dw);
  });
}

}  // namespace mbconv::ops::MBCONV_LEVEL
