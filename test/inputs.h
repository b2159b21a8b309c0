#pragma once

#include <cmath>
#include <vector>

#include "lib/rng.h"
#include "ops/deferred.h"
#include "ops/packed.h"
#include "test/guard.h"

namespace mbconv::test {

// How inputs are drawn: small integers make every sum exact, so that levels must agree in every
// bit.
enum class Values { reals, integers };

// What is pending on a tensor.
struct Pending {
  bool norm = true;
  ops::Activation activation = ops::Activation::linear;
  bool gate = false, skip = false;
};

// The epilogue of a finished output.
struct Folded {
  ops::Activation activation = ops::Activation::swish;
  bool skip = false;
};

// Draws the inputs of an op into its Memory: padding lanes are zero, numbers are a pure function of
// the seed and of the order of calls.
class Inputs {
 public:
  Inputs(Memory& memory, Values values, uint64_t seed)
      : memory_(memory), values_(values), rng_(seed, 0, 0, Purpose::synthetic) {}

  // Uniform in [low, high): a real, or an integer of [floor(low), ceil(high)].
  float draw(float low, float high) {
    if (values_ == Values::reals) return rng_.uniform(low, high);
    const float first = std::floor(low);
    const auto count = static_cast<uint64_t>(std::ceil(high) - first) + 1;
    return first + static_cast<float>(rng_.below(count));
  }
  // Where integers are wanted: `integer`.
  float draw_or(float integer, float low, float high) {
    return values_ == Values::reals ? rng_.uniform(low, high) : integer;
  }

  // [rows][padded] with numbers in the first `columns`.
  template <class Draw>
  std::vector<float> matrix(int rows, int columns, int padded, const Draw& value) {
    std::vector<float> out(static_cast<size_t>(rows) * static_cast<size_t>(padded));
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) out[static_cast<size_t>(r * padded + c)] = value(c);
    }
    return out;
  }
  float* vector(const Shape& s, float low, float high) {
    return memory_.input(matrix(1, s.c, s.padded_c(), [&](int) { return draw(low, high); }));
  }
  float* per_image(const Shape& s, float low, float high) {
    return memory_.input(matrix(s.n, s.c, s.padded_c(), [&](int) { return draw(low, high); }));
  }

  float* invstd(const Shape& s) {
    return memory_.input(matrix(1, s.c, s.padded_c(), [&](int) { return draw_or(1, 0.5f, 2.0f); }));
  }
  // A gate, [N,C]: neither 0 nor 1, where its derivative would vanish.
  float* gate(const Shape& s) {
    return values_ == Values::integers ? per_image(s, 2, 3) : per_image(s, 0.1f, 0.9f);
  }

  template <class Draw>
  std::vector<float> values(const Shape& s, const Draw& value) {
    std::vector<float> out(s.size());
    const View<float> view{out.data(), s};
    for (int n = 0; n < s.n; ++n) {
      for (int c = 0; c < s.c; ++c) {
        for (int p = 0; p < s.pixels(); ++p) view.pixel(n, c / s.block, p)[c % s.block] = value(c);
      }
    }
    return out;
  }
  View<const float> tensor(const Shape& s, float low = -2, float high = 2) {
    return {memory_.input(values(s, [&](int) { return draw(low, high); })), s};
  }

  std::vector<float> packed_values(int k, int n, float low, float high) {
    std::vector<float> out(ops::Packed<float>{nullptr, k, n}.size());
    const ops::Packed<float> w{out.data(), k, n};
    for (int r = 0; r < k; ++r) {
      for (int c = 0; c < n; ++c) w.at(r, c) = draw(low, high);
    }
    return out;
  }
  ops::Packed<const float> weights(int k, int n) {
    return {memory_.input(packed_values(k, n, -1, 1)), k, n};
  }
  // A gradient to be accumulated, from numbers on that are no zeros.
  ops::Packed<float> gradient(int k, int n) {
    return {memory_.accumulated(packed_values(k, n, 1, 3)), k, n};
  }

  ops::Deferred deferred(const Shape& s, const Pending& pending) {
    ops::Deferred x;
    x.activation = pending.activation;
    if (pending.norm) {
      x.scale =
          memory_.input(matrix(1, s.c, s.padded_c(), [&](int) { return draw_or(1, 0.5f, 1.5f); }));
      x.shift = vector(s, 0, 1);
      x.y = normalised(s, x.scale, x.shift, pending.activation);
    } else {
      x.y = tensor(s);
    }
    if (pending.gate) x.gate = gate(s);
    if (pending.skip) x.skip = tensor(s);
    return x;
  }

  ops::Finish finish(const Shape& s, const Folded& folded) {
    ops::Finish out;
    out.bias = vector(s, 0, 3);
    out.activation = folded.activation;
    if (folded.skip) out.skip = tensor(s);
    return out;
  }

  struct GradParts {
    bool g = true, norm = true, gate = false, offset = false;
    ops::Activation activation = ops::Activation::linear;
  };
  ops::DeferredGrad grad(const Shape& s, const GradParts& parts) {
    ops::DeferredGrad out;
    if (parts.g) out.g = tensor(s);
    if (parts.gate) out.gate = gate(s);
    if (parts.offset) out.offset = per_image(s, -0.5f, 0.5f);
    out.activation = parts.activation;
    if (!parts.norm) return out;
    const ops::Deferred x = deferred(s, {true, parts.activation});
    out.y = x.y;
    out.scale = x.scale;
    out.shift = x.shift;
    out.mean = vector(s, -0.5f, 0.5f);
    out.a = vector(s, 0.5f, 1.5f);
    out.b = vector(s, -0.5f, 0.5f);
    out.d = vector(s, -0.5f, 0.5f);
    return out;
  }

  // The place for the gradient of x: through its batch norm, or one of its own if x is finished; or
  // without a batch norm.
  ops::InputGrad input_grad(const ops::Deferred& x, bool norm, bool skip, int slots) {
    const Shape& s = x.y.shape;
    ops::InputGrad out;
    out.dz = {memory_.output<float>(s.size()), s};
    if (!norm) return out;
    const ops::Deferred from = x.scale != nullptr ? x : deferred(s, {true, x.activation});
    out.y = from.y;
    out.scale = from.scale;
    out.shift = from.shift;
    out.activation = from.activation;
    if (skip) out.skip = tensor(s);
    out.mean = vector(s, -0.5f, 0.5f);
    out.invstd = invstd(s);
    out.sums = sums(slots, s.padded_c());
    return out;
  }

  ops::ChannelSums sums(int slots, int channels) {
    return {memory_.output<double>(ops::ChannelSums::size(slots, channels)), slots, channels};
  }

 private:
  // y such that scale y + shift keeps away from the kinks of f, where a rounding could decide.
  View<const float> normalised(const Shape& s, const float* scale, const float* shift,
                               ops::Activation f) {
    const bool kinked = f == ops::Activation::relu || f == ops::Activation::relu6 ||
                        f == ops::Activation::leaky_relu;
    const float high = f == ops::Activation::relu6 ? 8.0f : 2.0f;
    const auto value = [&](int c) {
      for (;;) {
        const float y = values_ == Values::integers ? draw(-1, 3) : draw(-2, high);
        const float z = scale[c] * y + shift[c];
        const bool near = std::abs(z) < 0.01f || std::abs(z - 6) < 0.01f;
        if (!kinked || !near || values_ == Values::integers) return y;
      }
    };
    return {memory_.input(values(s, value)), s};
  }

  Memory& memory_;
  Values values_;
  Rng rng_;
};

}  // namespace mbconv::test
