#pragma once

// Depthwise micro-kernels on lines in scratch memory, per ISA level (see ops/simd.h).

#include <cstddef>

#include "ops/simd.h"
#if !defined(__AVX2__)
#include "ops/dwconv_ref.h"
#endif

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

constexpr int kMaxTaps = 5;

// Input lines of one output line, and the filter line that goes with each. x[r] points at the first
// pixel of the first output's window, w[r] at the first tap; pixels and taps are `channels` apart.
struct Lines {
  const float* x[kMaxTaps];
  const float* w[kMaxTaps];
  int count = 0;
  int channels;

  void add(const float* line, const float* filter) {
    x[count] = line;
    w[count] = filter;
    ++count;
  }
};

#if defined(__AVX2__)

// Outputs in registers: 14 + 5 taps + 1 input = 20 of 32 (AVX-512), 7 + 5 + 1 = 13 of 16 (AVX2).
// The map sides of a 224-pixel network are multiples of 7.
#if defined(__AVX512F__)
constexpr int kOutputs = 14;
#else
constexpr int kOutputs = 7;
#endif

// acc[q] = sum over lines and taps of x[r][(q * S + t)] w[r][t] for one vector of channels: per
// line (Q - 1) S + T loads of x for Q T FMAs; bound by the FMA ports.
template <int Q, int T, int S, class Out>
inline void dwconv_block(const Lines& lines, int q0, int c, const Out& out) {
  V acc[Q];
#pragma GCC unroll 16
  for (int q = 0; q < Q; ++q) acc[q] = V(0.0f);
  for (int r = 0; r < lines.count; ++r) {
    const float* x = lines.x[r] + ptrdiff_t{q0} * S * lines.channels + c;
    V w[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) w[t] = load(lines.w[r] + ptrdiff_t{t} * lines.channels + c);
#pragma GCC unroll 64
    for (int i = 0; i < (Q - 1) * S + T; ++i) {
      const V xi = load(x + ptrdiff_t{i} * lines.channels);
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

template <int Q, int T, int S, class Out>
inline void dwconv_remainder(int left, const Lines& lines, int q0, int c, const Out& out) {
  if constexpr (Q > 0) {
    if (left == Q) {
      dwconv_block<Q, T, S>(lines, q0, c, out);
    } else {
      dwconv_remainder<Q - 1, T, S>(left, lines, q0, c, out);
    }
  }
}

// All outputs of a line. Out::store<Q>(q, c, acc) receives Q consecutive outputs, channels from c.
template <int T, int S, class Out>
inline void dwconv_line(const Lines& lines, int outputs, const Out& out) {
  for (int c = 0; c < lines.channels; c += kWidth) {
    int q = 0;
    for (; q + kOutputs <= outputs; q += kOutputs) dwconv_block<kOutputs, T, S>(lines, q, c, out);
    dwconv_remainder<kOutputs - 1, T, S>(outputs - q, lines, q, c, out);
  }
}

// dw[t] += sum over q of a[q] dy[q + t], for T taps; pixels of a are `a_stride` floats apart, those
// of dy and the taps of dw `channels`. T + 1 loads for T FMAs.
template <int T>
inline void dwconv_filter_line(const float* a, ptrdiff_t a_stride, const float* dy, int pixels,
                               int channels, float* dw) {
  for (int c = 0; c < channels; c += kWidth) {
    V acc[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) acc[t] = load(dw + ptrdiff_t{t} * channels + c);
    for (int q = 0; q < pixels; ++q) {
      const V x = load(a + q * a_stride + c);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        acc[t] = madd(x, load(dy + ptrdiff_t{q + t} * channels + c), acc[t]);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) store(dw + ptrdiff_t{t} * channels + c, acc[t]);
  }
}

#else

template <int T, int S, class Out>
inline void dwconv_line(const Lines& lines, int outputs, const Out& out) {
  for (int c = 0; c < lines.channels; ++c) {
    for (int q = 0; q < outputs; ++q) {
      V acc[1];
      ref::dwconv_line(lines.x, lines.w, lines.count, T, S, q, c, lines.channels, acc[0]);
      out.template store<1>(q, c, acc);
    }
  }
}

template <int T>
inline void dwconv_filter_line(const float* a, ptrdiff_t a_stride, const float* dy, int pixels,
                               int channels, float* dw) {
  for (int t = 0; t < T; ++t) {
    for (int q = 0; q < pixels; ++q) {
      for (int c = 0; c < channels; ++c) {
        dw[t * channels + c] += a[q * a_stride + c] * dy[(q + t) * channels + c];
      }
    }
  }
}

#endif

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
