// Squeeze-excite at one ISA level: see ops/simd.h.

#include "ops/squeeze_excite.h"

#include "ops/epilogue.h"

namespace mbconv::ops::MBCONV_LEVEL {

SqueezeExciteReduce squeeze_excite_reduce;
SqueezeExciteGate squeeze_excite_gate;
SqueezeExciteBackwardInput squeeze_excite_backward_input;
SqueezeExciteBackwardFilter squeeze_excite_backward_filter;

namespace {

// Rows of weights that are multiplied together: 4 x 4 accumulators + 4 + 1 = 21 of 32 registers
// (AVX-512), 4 x 2 + 2 + 1 = 11 of 16 (AVX2).
constexpr int kRows = kWidth == 16 ? 4 : 2;

// out[i * ld_out + r] = sum over c of x[i][c] w[r][c] for I images and R rows of weights: lanes of
// partial sums, added in order.
template <int I, int R>
inline void dot_block(const float* x, ptrdiff_t ldx, const float* w, ptrdiff_t ldw, int count,
                      float* out, ptrdiff_t ld_out) {
  V acc[I][R];
#pragma GCC unroll 4
  for (int i = 0; i < I; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[i][r] = V(0.0f);
  }
  for (int c = 0; c < count; c += kWidth) {
    V wr[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) wr[r] = load(w + r * ldw + c);
#pragma GCC unroll 4
    for (int i = 0; i < I; ++i) {
      const V xi = load(x + i * ldx + c);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[i][r] = madd(xi, wr[r], acc[i][r]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < I; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      float lanes[kWidth];
      store(lanes, acc[i][r]);
      float sum = 0;
      for (const float lane : lanes) sum += lane;
      out[i * ld_out + r] = sum;
    }
  }
}

// The same for all `rows` rows of weights.
template <int I>
inline void dots(const float* x, ptrdiff_t ldx, const float* w, ptrdiff_t ldw, int rows, int count,
                 float* out, ptrdiff_t ld_out) {
  int r = 0;
  for (; r + kRows <= rows; r += kRows)
    dot_block<I, kRows>(x, ldx, w + r * ldw, ldw, count, out + r, ld_out);
  for (; r < rows; ++r) dot_block<I, 1>(x, ldx, w + r * ldw, ldw, count, out + r, ld_out);
}

// y[i][c] = init[c] + scale * sum over r of s[i][r] w[r][c] for I images and channels [0, C *
// kWidth); without `init`, 0. I * C accumulators, C vectors of w: at most 12 registers.
template <int I, int C>
inline void sums_block(const float* s, ptrdiff_t lds, const float* w, ptrdiff_t ldw, int rows,
                       const float* init, float scale, float* y, ptrdiff_t ldy) {
  V acc[I][C];
#pragma GCC unroll 4
  for (int i = 0; i < I; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) acc[i][c] = V(0.0f);
  }
  for (int r = 0; r < rows; ++r) {
    V wr[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) wr[c] = load(w + r * ldw + c * kWidth);
#pragma GCC unroll 4
    for (int i = 0; i < I; ++i) {
      const V si(s[i * lds + r]);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) acc[i][c] = madd(si, wr[c], acc[i][c]);
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
    const V start = load_or(init, c * kWidth, 0.0f);
#pragma GCC unroll 4
    for (int i = 0; i < I; ++i) store(y + i * ldy + c * kWidth, madd(V(scale), acc[i][c], start));
  }
}

// The same for all `count` channels.
template <int I>
inline void sums_of_rows(const float* s, ptrdiff_t lds, const float* w, ptrdiff_t ldw, int rows,
                         int count, const float* init, float scale, float* y, ptrdiff_t ldy) {
  constexpr int C = I == 1 ? 4 : 2;
  int c = 0;
  for (; c + C * kWidth <= count; c += C * kWidth)
    sums_block<I, C>(s, lds, w + c, ldw, rows, at(init, c), scale, y + c, ldy);
  for (; c < count; c += kWidth)
    sums_block<I, 1>(s, lds, w + c, ldw, rows, at(init, c), scale, y + c, ldy);
}

// Calls body(Count<I>(), n) for the images [first, first + count), I of them from n on at a time.
template <int I>
struct Count {
  static constexpr int value = I;
};
template <class Body>
inline void for_images(int first, int count, const Body& body) {
  int n = first;
  for (; n + kSqueezeExciteImages <= first + count; n += kSqueezeExciteImages)
    body(Count<kSqueezeExciteImages>(), n);
  for (; n < first + count; ++n) body(Count<1>(), n);
}

// y += s x
inline void axpy(float s, const float* x, int count, float* y) {
  for (int i = 0; i < count; i += kWidth) store(y + i, madd(V(s), load(x + i), load(y + i)));
}

// f and f' of one number, through the vector functions so that levels agree with themselves.
struct ValueAndSlope {
  float value, slope;
};
inline ValueAndSlope activate(Activation f, float u) {
  ValueAndSlope out{};
  with_activation(f, [&](auto policy) {
    float values[kWidth], slopes[kWidth];
    V slope;
    store(values, decltype(policy)::value(V(u), slope));
    store(slopes, slope);
    out = {values[0], slopes[0]};
  });
  return out;
}

}  // namespace

void squeeze_excite_reduce(const SqueezeExcite& args, int first, int count, int r0, int r1) {
  const ptrdiff_t padded = args.padded, reduced = args.reduced;
  for_images(first, count, [&](auto images, int n) {
    constexpr int I = decltype(images)::value;
    float* u = args.u + n * reduced;
    dots<I>(args.mean + n * padded, padded, args.w1 + r0 * padded, padded, r1 - r0, args.padded,
            u + r0, reduced);
    for (int i = 0; i < I; ++i) {
      for (int r = r0; r < r1; ++r) u[i * reduced + r] += args.b1[r];
    }
  });
}

void squeeze_excite_gate(const SqueezeExcite& args, int first, int count, int c0, int c1,
                         float* scratch) {
  const ptrdiff_t padded = args.padded, ld = round_up(args.reduced, kLane);
  for_images(first, count, [&](auto images, int n) {
    constexpr int I = decltype(images)::value;
    for (int i = 0; i < I; ++i) {
      const float* u = args.u + ptrdiff_t{n + i} * args.reduced;
      for (int r = 0; r < ld; ++r) scratch[i * ld + r] = r < args.reduced ? u[r] : 0.0f;
    }
    with_activation(args.activation, [&](auto f) {
      for (ptrdiff_t i = 0; i < I * ld; i += kWidth) {
        V slope;  // the value that goes with it, as in the backward pass
        store(scratch + i, decltype(f)::value(load(scratch + i), slope));
      }
    });
    float* gate = args.gate + n * padded;
    sums_of_rows<I>(scratch, ld, args.w2 + c0, padded, args.reduced, c1 - c0, args.b2 + c0, 1.0f,
                    gate + c0, padded);
    for (int i = 0; i < I; ++i) {
      float* row = gate + i * padded;
      for (int c = c0; c < c1; c += kWidth) store(row + c, sigmoid(load(row + c)));
      if (c1 > args.channels) clear(row + args.channels, c1 - args.channels);
    }
  });
}

void squeeze_excite_backward_input(const SqueezeExciteBackward& args, int first, int count) {
  const SqueezeExcite& f = args.forward;
  const ptrdiff_t padded = f.padded, reduced = f.reduced;
  for (ptrdiff_t i = first * padded; i < (first + count) * padded; i += kWidth) {
    const V gate = load(f.gate + i);
    store(args.e + i, load(args.dgate + i) * gate * (V(1.0f) - gate));
  }
  for_images(first, count, [&](auto images, int n) {
    constexpr int I = decltype(images)::value;
    float* du = args.du + n * reduced;
    dots<I>(args.e + n * padded, padded, f.w2, padded, f.reduced, f.padded, du, reduced);
    for (ptrdiff_t i = 0; i < I * reduced; ++i) {
      const ValueAndSlope h = activate(f.activation, f.u[n * reduced + i]);
      args.h[n * reduced + i] = h.value;
      du[i] *= h.slope;
    }
    sums_of_rows<I>(du, reduced, f.w1, padded, f.reduced, f.padded, nullptr,
                    1.0f / static_cast<float>(args.pixels), args.offset + n * padded, padded);
  });
}

void squeeze_excite_backward_filter(const SqueezeExciteBackward& args, int unit) {
  const SqueezeExcite& f = args.forward;
  const int c = unit * kWideBlock;
  const int width = f.padded - c < kWideBlock ? f.padded - c : kWideBlock;
  gemm_tn(args.images, f.reduced, width, Tile{args.du, f.reduced}, Tile{f.mean + c, f.padded},
          {args.dw1 + c, f.padded, kLane}, true);
  gemm_tn(args.images, f.reduced, width, Tile{args.h, f.reduced}, Tile{args.e + c, f.padded},
          {args.dw2 + c, f.padded, kLane}, true);
  for (int n = 0; n < args.images; ++n) {
    axpy(1.0f, args.e + ptrdiff_t{n} * f.padded + c, width, args.db2 + c);
  }
  if (unit != 0) return;
  for (int n = 0; n < args.images; ++n) {
    for (int r = 0; r < f.reduced; ++r) args.db1[r] += args.du[ptrdiff_t{n} * f.reduced + r];
  }
}

}  // namespace mbconv::ops::MBCONV_LEVEL
