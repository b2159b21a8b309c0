// Squeeze-excite at one ISA level: see ops/simd.h.

#include "ops/squeeze_excite.h"

#include "ops/epilogue.h"

namespace mbconv::ops::MBCONV_LEVEL {

SqueezeExciteForward squeeze_excite_forward;
SqueezeExciteBackwardInput squeeze_excite_backward_input;
SqueezeExciteBackwardFilter squeeze_excite_backward_filter;

namespace {

// sum over c of a[c] b[c]: two vectors of partial sums, added lane by lane in order.
inline float dot(const float* a, const float* b, int count) {
  V even(0.0f), odd(0.0f);
  int i = 0;
  for (; i + 2 * kWidth <= count; i += 2 * kWidth) {
    even = madd(load(a + i), load(b + i), even);
    odd = madd(load(a + i + kWidth), load(b + i + kWidth), odd);
  }
  for (; i < count; i += kWidth) even = madd(load(a + i), load(b + i), even);
  float lanes[kWidth];
  store(lanes, even + odd);
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
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
    float value[kWidth], slope[kWidth];
    V derivative;
    store(value, decltype(policy)::value(V(u), derivative));
    store(slope, derivative);
    out = {value[0], slope[0]};
  });
  return out;
}

}  // namespace

void squeeze_excite_forward(const SqueezeExcite& args, int n) {
  const float* mean = args.mean + ptrdiff_t{n} * args.padded;
  float* u = args.u + ptrdiff_t{n} * args.reduced;
  float* gate = args.gate + ptrdiff_t{n} * args.padded;
  copy_row(args.b2, args.padded, gate);
  for (int r = 0; r < args.reduced; ++r) {
    u[r] = args.b1[r] + dot(args.w1 + ptrdiff_t{r} * args.padded, mean, args.padded);
    axpy(activate(args.activation, u[r]).value, args.w2 + ptrdiff_t{r} * args.padded, args.padded,
         gate);
  }
  for (int c = 0; c < args.padded; c += kWidth) store(gate + c, sigmoid(load(gate + c)));
  clear(gate + args.channels, args.padded - args.channels);
}

void squeeze_excite_backward_input(const SqueezeExciteBackward& args, int n) {
  const SqueezeExcite& f = args.forward;
  const ptrdiff_t row = ptrdiff_t{n} * f.padded;
  float* e = args.e + row;
  float* offset = args.offset + row;
  for (int c = 0; c < f.padded; c += kWidth) {
    const V gate = load(f.gate + row + c);
    store(e + c, load(args.dgate + row + c) * gate * (V(1.0f) - gate));
  }
  clear(offset, f.padded);
  const float per_pixel = 1.0f / static_cast<float>(args.pixels);
  for (int r = 0; r < f.reduced; ++r) {
    const ptrdiff_t i = ptrdiff_t{n} * f.reduced + r;
    const ValueAndSlope h = activate(f.activation, f.u[i]);
    args.h[i] = h.value;
    args.du[i] = dot(f.w2 + ptrdiff_t{r} * f.padded, e, f.padded) * h.slope;
    axpy(args.du[i] * per_pixel, f.w1 + ptrdiff_t{r} * f.padded, f.padded, offset);
  }
}

void squeeze_excite_backward_filter(const SqueezeExciteBackward& args, int unit) {
  const SqueezeExcite& f = args.forward;
  const int c = unit * kWideBlock;
  const int width = f.padded - c < kWideBlock ? f.padded - c : kWideBlock;
  gemm_tn(args.images, f.reduced, width, {args.du, f.reduced}, {f.mean + c, f.padded}, args.dw1 + c,
          f.padded);
  gemm_tn(args.images, f.reduced, width, {args.h, f.reduced}, {args.e + c, f.padded}, args.dw2 + c,
          f.padded);
  for (int n = 0; n < args.images; ++n) {
    axpy(1.0f, args.e + ptrdiff_t{n} * f.padded + c, width, args.db2 + c);
  }
  if (unit != 0) return;
  for (int n = 0; n < args.images; ++n) {
    for (int r = 0; r < f.reduced; ++r) args.db1[r] += args.du[ptrdiff_t{n} * f.reduced + r];
  }
}

}  // namespace mbconv::ops::MBCONV_LEVEL
