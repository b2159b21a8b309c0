#pragma once

// Depthwise micro-kernels on lines in scratch memory, [pixel][kLane], per ISA level (see
// ops/simd.h).

#include <cstddef>

#include "lib/tensor.h"
#include "ops/simd.h"
#if !defined(__AVX2__)
#include "ops/dwconv_ref.h"
#endif

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

constexpr int kMaxTaps = 5;

// Input lines of one output line, and the filter line that goes with each: line r begins, with the
// first output's window, at x + offset[r], and its first tap at w + r * w_line; pixels and taps are
// kLane apart.
struct Lines {
  const float* x;
  const ptrdiff_t* offset;
  const float* w;
  ptrdiff_t w_line;
  int count;
};

#if defined(__AVX2__)

// Outputs in registers: 14 + 5 taps + 1 input = 20 of 32 (AVX-512), 7 + 5 + 1 = 13 of 16 (AVX2).
// The map sides of a 224-pixel network are multiples of 7.
constexpr bool kManyRegisters = kWidth == 16;
constexpr int kOutputs = kManyRegisters ? 14 : 7;

// acc[q] = sum over lines and taps of x[r][(q * S + t)] w[r][t] for one vector of channels: per
// line (Q - 1) S + T loads of x for Q T FMAs. Bound by their latency: each sum waits for itself, T
// times a line, where the ports would need Q T / 2 cycles. Cycles an output vector in L1 of a Zen
// 3, Q = 7: of 5 x 5 taps 15.1, by latency 14.3, by ports 12.5; of 3 x 3 5.3, 5.1 and 4.5. Where
// other hardware threads take slots of the front end, 20 and 8.5. Four outputs of two vectors are
// enough sums to hide the latency and take 14.0 and 5.0, but with more loads: passes gained
// nothing. AVX-512, of a Granite Rapids: 0.59 of the FMA peak in the median of B0's shapes, 0.46 to
// 0.53 on lines of 7 and 14; what holds these back is not known.
template <int Q, int T, int S, class Out>
inline void dwconv_block(const Lines& lines, int q0, int c, const Out& out) {
  V acc[Q];
#pragma GCC unroll 16
  for (int q = 0; q < Q; ++q) acc[q] = V(0.0f);
  for (int r = 0; r < lines.count; ++r) {
    const float* x = lines.x + lines.offset[r] + ptrdiff_t{q0} * S * kLane + c;
    const float* taps = lines.w + r * lines.w_line + c;
    V w[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) w[t] = load(taps + t * kLane);
#pragma GCC unroll 64
    for (int i = 0; i < (Q - 1) * S + T; ++i) {
      const V xi = load(x + ptrdiff_t{i} * kLane);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        if (i >= t && (i - t) % S == 0 && (i - t) / S < Q) {
          acc[(i - t) / S] = madd(xi, w[t], acc[(i - t) / S]);
        }
      }
    }
  }
  out.template store<Q>(q0, c, acc);
}

// The outputs [q, end) of a line, in blocks of Q and then of about half as many.
template <int Q, int T, int S, class Out>
inline void dwconv_blocks(int q, int end, const Lines& lines, int c, const Out& out) {
  for (; q + Q <= end; q += Q) dwconv_block<Q, T, S>(lines, q, c, out);
  if constexpr (Q > 1) {
    if (q < end) dwconv_blocks<(Q + 1) / 2, T, S>(q, end, lines, c, out);
  }
}

// All outputs of a line. Out::store<Q>(q, c, acc) receives Q consecutive outputs, channels from c.
template <int T, int S, class Out>
inline void dwconv_line(const Lines& lines, int outputs, const Out& out) {
  for (int c = 0; c < kLane; c += kWidth) dwconv_blocks<kOutputs, T, S>(0, outputs, lines, c, out);
}

// How the gradient of R filter lines of T taps is summed up: R T sums of one pixel after the other.
template <int R, int T>
struct FilterSums {
  // Where there are registers for it, the last T values of each line of dy stay in them while q
  // goes on: 1 + R loads for R T FMAs. Elsewhere values are operands in memory: 1 + R T loads.
  static constexpr bool kWindow = T >= (kManyRegisters ? 3 : 5);
  // Pixels that are summed up beside each other where there is no window, so that 8 FMAs or more
  // wait for none of the others: two ports of a latency of four cycles.
  static constexpr int kApart = kWindow || R * T >= 8 ? 1 : (8 + R * T - 1) / (R * T);
};

// Filter lines at once: 19 or 21 of 32 registers (AVX-512), 10 or 11 of 16 (AVX2).
constexpr int filter_lines(int taps) {
  return taps <= 3 ? 3 : kManyRegisters ? 2 : 1;
}

// dw[r][t] += sum over q of a[S q] dy[r][q + t] for lines [r0, r0 + R) of `dy`, whose w is dw's
// place, and T taps.
template <int R, int T, int S>
inline void dwconv_filter_block(const float* a, const Lines& dy, int r0, int pixels, int c,
                                float* dw) {
  constexpr bool kWindow = FilterSums<R, T>::kWindow;
  constexpr int kApart = FilterSums<R, T>::kApart, kStep = kWindow ? T : kApart;
  V acc[kApart][R][T];
  [[maybe_unused]] V window[R][T];
  const float* line[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    line[r] = dy.x + dy.offset[r0 + r] + c;
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      acc[0][r][t] = load(dw + (r0 + r) * dy.w_line + t * kLane + c);
#pragma GCC unroll 8
      for (int u = 1; u < kApart; ++u) acc[u][r][t] = V(0.0f);
      if constexpr (kWindow) window[r][t] = t + 1 < T ? load(line[r] + t * kLane) : V(0.0f);
    }
  }
  const auto step = [&](int q, int u) {  // window[u] holds dy[q]
    const V x = load(a + ptrdiff_t{q} * S * kLane + c);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if constexpr (kWindow)
        window[r][(u + T - 1) % T] = load(line[r] + ptrdiff_t{q + T - 1} * kLane);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        V& sum = acc[u % kApart][r][t];
        if constexpr (kWindow) {
          sum = madd(x, window[r][(u + t) % T], sum);
        } else {
          sum = madd(x, load(line[r] + ptrdiff_t{q + t} * kLane), sum);
        }
      }
    }
  };
  int q = 0;
  for (; q + kStep <= pixels; q += kStep) {
#pragma GCC unroll 8
    for (int u = 0; u < kStep; ++u) step(q + u, u);
  }
#pragma GCC unroll 8
  for (int u = 0; u + 1 < kStep; ++u) {
    if (q + u < pixels) step(q + u, u);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
      for (int u = 1; u < kApart; ++u) acc[0][r][t] = acc[0][r][t] + acc[u][r][t];
      store(dw + (r0 + r) * dy.w_line + t * kLane + c, acc[0][r][t]);
    }
  }
}

// The same for all lines.
template <int T, int S>
inline void dwconv_filter_lines(const float* a, const Lines& dy, int pixels, float* dw) {
  constexpr int R = filter_lines(T);
  for (int c = 0; c < kLane; c += kWidth) {
    int r = 0;
    for (; r + R <= dy.count; r += R) dwconv_filter_block<R, T, S>(a, dy, r, pixels, c, dw);
    if (R > 2 && dy.count - r == 2) dwconv_filter_block<2, T, S>(a, dy, r, pixels, c, dw);
    if (R > 1 && dy.count - r == 1) dwconv_filter_block<1, T, S>(a, dy, r, pixels, c, dw);
  }
}

#else

template <int T, int S, class Out>
inline void dwconv_line(const Lines& lines, int outputs, const Out& out) {
  const float *x[kMaxTaps], *w[kMaxTaps];
  for (int r = 0; r < lines.count; ++r) {
    x[r] = lines.x + lines.offset[r];
    w[r] = lines.w + r * lines.w_line;
  }
  for (int c = 0; c < kLane; ++c) {
    for (int q = 0; q < outputs; ++q) {
      V acc[1];
      ref::dwconv_line(x, w, lines.count, T, S, q, c, kLane, acc[0]);
      out.template store<1>(q, c, acc);
    }
  }
}

template <int T, int S>
inline void dwconv_filter_lines(const float* a, const Lines& dy, int pixels, float* dw) {
  for (int r = 0; r < dy.count; ++r) {
    for (int t = 0; t < T; ++t) {
      for (int q = 0; q < pixels; ++q) {
        for (int c = 0; c < kLane; ++c) {
          dw[r * dy.w_line + t * kLane + c] +=
              a[ptrdiff_t{q} * S * kLane + c] * dy.x[dy.offset[r] + ptrdiff_t{q + t} * kLane + c];
        }
      }
    }
  }
}

#endif

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
