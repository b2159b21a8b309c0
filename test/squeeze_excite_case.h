#pragma once

#include <vector>

#include "ops/squeeze_excite.h"
#include "ops/squeeze_excite_ref.h"
#include "test/inputs.h"
#include "test/oracle.h"

namespace mbconv::test {

// Squeeze-excite as part of two ops' tests: inputs, oracle and comparison.

inline std::vector<Tracked> tracked(const float* data, int count) {
  return std::vector<Tracked>(data, data + count);
}

// Weights, biases and pooled features; `f.u` and `f.gate` are left to the caller.
inline ops::SqueezeExcite squeeze_excite_inputs(Inputs& in, Memory& memory, const Shape& s,
                                                int reduced, ops::Activation f) {
  const int padded = s.padded_c();
  const auto rows = [&](float low, float high) {
    return memory.input(in.matrix(reduced, s.c, padded, [&](int) { return in.draw(low, high); }));
  };
  ops::SqueezeExcite out{};
  out.channels = s.c;
  out.padded = padded;
  out.reduced = reduced;
  out.activation = f;
  out.w1 = rows(-0.5f, 0.5f);
  out.b1 = memory.input(in.matrix(1, reduced, reduced, [&](int) { return in.draw(-0.5f, 0.5f); }));
  out.w2 = rows(-0.5f, 0.5f);
  out.b2 = in.vector(s, -0.5f, 0.5f);
  return out;
}

// u of a forward pass, drawn: away from the kink of relu.
inline float* drawn_u(Inputs& in, Memory& memory, int images, int reduced) {
  return memory.input(in.matrix(images, reduced, reduced, [&](int) {
    const float u = in.draw(-1, 2);
    return std::abs(u) < 0.01f ? 1.0f : u;
  }));
}

inline ops::SqueezeExciteBackward squeeze_excite_outputs(Inputs& in, Memory& memory,
                                                         const ops::SqueezeExcite& f, int images,
                                                         int pixels) {
  const size_t n = static_cast<size_t>(images), r = static_cast<size_t>(f.reduced);
  const size_t padded = static_cast<size_t>(f.padded);
  const auto start = [&](int rows, int columns, int pitch) {
    return memory.accumulated(in.matrix(rows, columns, pitch, [&](int) { return in.draw(1, 3); }));
  };
  ops::SqueezeExciteBackward out{};
  out.forward = f;
  out.e = memory.output<float>(n * padded);
  out.du = memory.output<float>(n * r);
  out.offset = memory.output<float>(n * padded);
  out.pixels = pixels;
  out.dw1 = start(f.reduced, f.channels, f.padded);
  out.db1 = start(1, f.reduced, f.reduced);
  out.dw2 = start(f.reduced, f.channels, f.padded);
  out.db2 = start(1, f.channels, f.padded);
  out.images = images;
  out.h = memory.output<float>(n * r);
  return out;
}

struct SqueezeExciteGrads {
  Dense<Tracked> e, du, offset, dw1, db1, dw2, db2;
};

// The reference, image by image, on the float inputs of `args` and on dgate, [N,C].
inline SqueezeExciteGrads squeeze_excite_oracle(const Memory& memory,
                                                const ops::SqueezeExciteBackward& args,
                                                const Dense<Tracked>& dgate) {
  const ops::SqueezeExcite& f = args.forward;
  const int c = f.channels, r = f.reduced;
  const auto accumulated = [&](const float* piece, int rows, int columns, int pitch) {
    return unpack<Tracked>(memory.start(piece).data(), rows, columns, pitch);
  };
  SqueezeExciteGrads out{
      Dense<Tracked>({args.images, c}),     Dense<Tracked>({args.images, r}),
      Dense<Tracked>({args.images, c}),     accumulated(args.dw1, r, c, f.padded),
      accumulated(args.db1, 1, r, r),       accumulated(args.dw2, r, c, f.padded),
      accumulated(args.db2, 1, c, f.padded)};
  const auto w1 = unpack<Tracked>(f.w1, r, c, f.padded), w2 = unpack<Tracked>(f.w2, r, c, f.padded);
  for (int n = 0; n < args.images; ++n) {
    const size_t row = static_cast<size_t>(n * c), first = static_cast<size_t>(n * r);
    const ops::ref::SqueezeExciteResult<Tracked> forward{tracked(f.u + n * r, r),
                                                         tracked(f.gate + n * f.padded, c)};
    const auto begin = dgate.values.begin() + n * c;
    // The bias gradients of one image are du and e.
    std::vector<Tracked> du(static_cast<size_t>(r)), e(static_cast<size_t>(c));
    const std::vector<Tracked> dm = ops::ref::squeeze_excite_backward(
        f.activation, tracked(f.mean + n * f.padded, c), w1.values, w2.values, forward,
        std::vector<Tracked>(begin, begin + c), out.dw1.values, du, out.dw2.values, e);
    for (size_t i = 0; i < du.size(); ++i) {
      out.du[first + i] = du[i];
      out.db1[i] += du[i];
    }
    for (size_t i = 0; i < e.size(); ++i) {
      out.e[row + i] = e[i];
      out.db2[i] += e[i];
      out.offset[row + i] = dm[i] * Tracked(1.0 / args.pixels);
    }
  }
  return out;
}

inline void check_squeeze_excite(const ops::SqueezeExciteBackward& args,
                                 const SqueezeExciteGrads& want, double c) {
  const ops::SqueezeExcite& f = args.forward;
  const int n = args.images;
  check_close("e", unpack(args.e, n, f.channels, f.padded), want.e, c);
  check_close("du", unpack(args.du, n, f.reduced, f.reduced), want.du, c);
  check_close("offset", unpack(args.offset, n, f.channels, f.padded), want.offset, c);
  check_close("dw1", unpack(args.dw1, f.reduced, f.channels, f.padded), want.dw1, c);
  check_close("db1", unpack(args.db1, 1, f.reduced, f.reduced), want.db1, c);
  check_close("dw2", unpack(args.dw2, f.reduced, f.channels, f.padded), want.dw2, c);
  check_close("db2", unpack(args.db2, 1, f.channels, f.padded), want.db2, c);
  CHECK_MESSAGE(padding_is_zero(args.e, n, f.channels, f.padded), "e is not zero in its padding");
  CHECK_MESSAGE(padding_is_zero(args.offset, n, f.channels, f.padded),
                "offset is not zero in its padding");
  CHECK_MESSAGE(padding_is_zero(args.dw1, f.reduced, f.channels, f.padded),
                "dw1 is not zero in its padding");
  CHECK_MESSAGE(padding_is_zero(args.dw2, f.reduced, f.channels, f.padded),
                "dw2 is not zero in its padding");
  CHECK_MESSAGE(padding_is_zero(args.db2, 1, f.channels, f.padded),
                "db2 is not zero in its padding");
}

}  // namespace mbconv::test
