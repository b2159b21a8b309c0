#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "lib/error.h"
#include "ops/project.h"
#include "test/gradcheck.h"
#include "test/op_test.h"
#include "test/shapes.h"
#include "test/squeeze_excite_case.h"

using namespace mbconv;
using namespace mbconv::test;
using ops::Activation;

namespace {

struct Case {
  std::string name;
  Shape x;
  int cout, reduced;
  Activation activation = Activation::swish;
  ops::ProjectBackwardCut cut = {{0, 0, 0}, 0};  // as the op cuts, if no groups
};

Shape shape(const Map& m, int channels) {
  return Shape::wide(m.n, m.h, m.w, channels);
}

class Backward {
 public:
  Memory memory;
  ops::ProjectBackward args_{};

  Backward(const Case& c, Values values) {
    const ops::ProjectBackwardCut cut =
        c.cut.channel_groups > 0 ? c.cut : ops::project_backward_cut(c.x, c.cout);
    const size_t padded = static_cast<size_t>(c.x.n * c.x.padded_c());
    Inputs in(memory, values, static_cast<uint64_t>(c.x.c * 1000 + c.cout));
    args_.dy = in.grad(Shape::nhwc(c.x.n, c.x.h, c.x.w, c.cout), {});
    args_.x = in.deferred(c.x, {true, c.activation, true});
    args_.mean = in.vector(c.x, -0.5f, 0.5f);
    args_.invstd = in.invstd(c.x);
    args_.wt = in.weights(c.cout, c.x.c);
    args_.g = {memory.output<float>(c.x.size()), c.x};
    args_.gate_sums = memory.work<float>(ops::gate_sums_size(c.x, cut.rows));
    args_.dw = in.gradient(c.x.c, c.cout);
    args_.dw_slots = memory.work<float>(static_cast<size_t>(cut.rows.items()) * args_.dw.size());
    args_.dgate = memory.output<float>(padded);
    args_.finished_dy = memory.work<float>(args_.dy.shape().size());
    args_.sums = in.sums(1, c.x.padded_c());
    args_.cut = cut.rows;
    args_.channel_groups = cut.channel_groups;
    ops::SqueezeExcite se = squeeze_excite_inputs(in, memory, c.x, c.reduced, c.activation);
    se.mean = in.per_image(c.x, -1, 1);
    se.u = drawn_u(in, memory, c.x.n, c.reduced);
    se.gate = const_cast<float*>(args_.x.gate);
    args_.se = squeeze_excite_outputs(in, memory, se, c.x.n, c.x.pixels());
    args_.se.dgate = args_.dgate;
    oracle();
  }

  size_t scratch() const {
    return ops::project_scratch(args_.x.y.shape, args_.dw.n, args_.se.forward.reduced);
  }
  void run(const ops::Context& context) { ops::project_backward(context, args_); }

  // Integers: squeeze-excite divides by the pixels and its sums are not exact.
  void check(double c) const {
    const Shape& s = args_.x.y.shape;
    const double se = c > 0 ? c : 3;
    check_close("g", unpack(args_.g), g_, c);
    check_close("dw", unpack(args_.dw), dw_, c);
    check_close("dgate", unpack(args_.dgate, s.n, s.c, s.padded_c()), dgate_, c);
    check_close("gate_sums", filled_gate_sums(), gate_sums_, c);
    check_close("sums", unpack(args_.sums, s.c), sums_, se);
    check_squeeze_excite(args_.se, se_, se);
    CHECK_MESSAGE(padding_is_zero(args_.g), "g is not zero in its padding");
    CHECK_MESSAGE(padding_is_zero(args_.dw), "dw is not zero in its padding");
    CHECK_MESSAGE(padding_is_zero(args_.sums, s.c), "sums are not zero in their padding");
    CHECK_MESSAGE(padding_is_zero(args_.dgate, s.n, s.c, s.padded_c()),
                  "dgate is not zero in its padding");
  }

 private:
  void oracle() {
    const Shape& s = args_.x.y.shape;
    const int cin = s.c, cout = args_.dw.n, rows = static_cast<int>(s.rows());
    const Dense<Tracked> dy = finished(args_.dy), x = finished(args_.x);
    dw_ = unpack<Tracked>(ops::Packed<const float>{memory.start(args_.dw.data).data(), cin, cout});
    ops::ref::conv1x1_backward_filter(rows, cin, cout, x.values.data(), cin, dy.values.data(), cout,
                                      dw_.values.data(), cout);
    Dense<Tracked> w({cin, cout});
    for (int i = 0; i < cin; ++i) {
      for (int o = 0; o < cout; ++o) w[static_cast<size_t>(i * cout + o)] = args_.wt.at(o, i);
    }
    g_ = Dense<Tracked>({s.n, s.pixels(), cin});
    ops::ref::conv1x1_backward_input(rows, cin, cout, dy.values.data(), cout, w.values.data(), cout,
                                     g_.values.data(), cin);
    ops::Deferred ungated = args_.x;
    ungated.gate = nullptr;
    const Dense<Tracked> a = finished(ungated);
    dgate_ = Dense<Tracked>({s.n, cin});
    for_each_element(args_.x.y, [&](float, size_t i, int n, int c) {
      dgate_[static_cast<size_t>(n * cin + c)] += g_[i] * a[i];
    });
    sum_parts(a);
    se_ = squeeze_excite_oracle(memory, args_.se, dgate_);
    sum_dz();
  }

  // The slot of the gate sums that each pixel of an image falls in: kMaxTileRows of them, counted
  // from the beginning of a part.
  std::vector<int> gate_slots() const {
    const int pixels = args_.x.y.shape.pixels(), parts = args_.cut.parts;
    const int of_part = ops::GateSlots(args_.x.y.shape, args_.cut).of_part;
    std::vector<int> slots;
    for (int part = 0; part < parts; ++part) {
      const int begin = pixels * part / parts, end = pixels * (part + 1) / parts;
      for (int p = begin; p < end; ++p)
        slots.push_back(part * of_part + (p - begin) / ops::kMaxTileRows);
    }
    return slots;
  }

  // What is in them, [N * slots * 5, C]; zero in those that no pixel falls in.
  Dense<float> filled_gate_sums() const {
    const Shape& s = args_.x.y.shape;
    const ops::GateSlots slots(s, args_.cut);
    Dense<float> sums(gate_sums_.shape);
    for (int n = 0; n < s.n; ++n) {
      for (const int slot : gate_slots()) {
        for (int k = 0; k < ops::kGateSums; ++k) {
          for (int c = 0; c < s.c; ++c) {
            const float* from = args_.gate_sums + slots.at(c / kWideBlock, n, slot);
            sums[static_cast<size_t>(((n * slots.count + slot) * ops::kGateSums + k) * s.c + c)] =
                from[k * kWideBlock + c % kWideBlock];
          }
        }
      }
    }
    return sums;
  }

  // P0..P4, [N * slots * 5, C].
  void sum_parts(const Dense<Tracked>& a) {
    const Shape& s = args_.x.y.shape;
    const int slots = ops::GateSlots(s, args_.cut).count;
    const std::vector<int> slot_of = gate_slots();
    const Dense<Tracked> slope =
        slopes(args_.x.y, args_.x.scale, args_.x.shift, args_.x.activation);
    gate_sums_ = Dense<Tracked>({s.n * slots * ops::kGateSums, s.c});
    for_each_element(args_.x.y, [&](float y, size_t i, int n, int c) {
      const Tracked xhat = (Tracked(y) - Tracked(args_.mean[c])) * Tracked(args_.invstd[c]);
      const Tracked p[] = {g_[i] * a[i], g_[i] * slope[i], slope[i], g_[i] * slope[i] * xhat,
                           slope[i] * xhat};
      const size_t pixel = i / static_cast<size_t>(s.c) % static_cast<size_t>(s.pixels());
      const int slot = n * slots + slot_of[pixel];
      for (int k = 0; k < ops::kGateSums; ++k)
        gate_sums_[static_cast<size_t>((slot * ops::kGateSums + k) * s.c + c)] += p[k];
    });
  }

  // The sums of dz and dz * xhat, formed pixel by pixel from the whole gradient.
  void sum_dz() {
    const Shape& s = args_.x.y.shape;
    const Dense<Tracked> slope =
        slopes(args_.x.y, args_.x.scale, args_.x.shift, args_.x.activation);
    sums_ = Dense<Tracked>({1, 2, s.c});
    for_each_element(args_.x.y, [&](float y, size_t i, int n, int channel) {
      const size_t c = static_cast<size_t>(channel), channels = static_cast<size_t>(s.c);
      const Tracked gate = args_.x.gate[n * s.padded_c() + channel];
      const Tracked dz =
          (g_[i] * gate + se_.offset[static_cast<size_t>(n) * channels + c]) * slope[i];
      const Tracked xhat =
          (Tracked(y) - Tracked(args_.mean[channel])) * Tracked(args_.invstd[channel]);
      sums_[c] += dz;
      sums_[channels + c] += dz * xhat;
    });
  }

  Dense<Tracked> g_, dw_, dgate_, gate_sums_, sums_;
  SqueezeExciteGrads se_;
};

std::vector<Case> cases() {
  const Activation swish = Activation::swish;
  std::vector<Case> all = {
      {"wide", shape({2, 3, 3}, 96), 24, 4},
      {"stage 1, narrow", shape({3, 5, 7}, 32), 16, 8},
      {"2 channel groups, 3 parts of each image",
       shape({2, 9, 9}, 144),
       40,
       6,
       swish,
       {{1, 3, 2}, 2}},
      {"groups of 2 images, the last of 1", shape({3, 4, 4}, 240), 80, 10, swish, {{2, 1, 2}, 1}},
      {"one row range, tiles straddle images", shape({3, 7, 7}, 96), 24, 4, swish, {{3, 1, 1}, 1}},
      {"64 channels, a group for each panel", shape({2, 4, 4}, 64), 56, 5, swish, {{1, 1, 2}, 2}},
      {"the widest", shape({1, 2, 2}, 1152), 320, 48},
      {"14 parts of a larger map", shape({1, 28, 28}, 96), 24, 4, swish, {{1, 14, 1}, 2}},
      {"256 and 257 rows of an image", shape({1, 27, 19}, 96), 24, 4, swish, {{1, 2, 1}, 1}},
      {"several slots of each image of a group",
       shape({5, 17, 19}, 96),
       24,
       4,
       swish,
       {{2, 1, 3}, 1}},
      {"one group, channel groups", shape({3, 23, 23}, 144), 24, 4, swish, {{3, 1, 1}, 3}},
      {"more images of one pixel than fp32 sums may have", shape({260, 1, 1}, 64), 24, 4},
      {"the op's own cut", shape({1, 28, 28}, 144), 24, 6},
  };
  return some(all, 3);
}

constexpr double kTolerance = 3;

}  // namespace

TEST_CASE("project backward: matches reference") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Backward backward(c, Values::reals);
    check_matches_reference(ops::project_backward_variants(), backward, kTolerance);
  }
  if (!small_run()) {
    Backward large({"large", shape(kLargeMap, 48), 8, 3}, Values::reals);
    check_matches_reference(ops::project_backward_variants(), large, kTolerance);
  }
  for (const Activation f : {Activation::relu6, Activation::leaky_relu, Activation::linear}) {
    CAPTURE(std::string(name(f)));
    Backward backward({"", shape({2, 4, 4}, 40), 24, 5, f}, Values::reals);
    check_matches_reference(ops::project_backward_variants(), backward, kTolerance);
  }
}

TEST_CASE("project backward: tails and misalignment") {
  for (const Map& m : some(kMaps, 2)) {
    CAPTURE(m.h);
    for (const int c : some(std::vector<int>{8, 23, 72}, 1)) {
      CAPTURE(c);
      Backward backward({"", shape(m, c), c + 1, 3}, Values::reals);
      check_matches_reference(ops::project_backward_variants(), backward, kTolerance);
    }
  }
}

TEST_CASE("project backward: exact on small integers") {
  for (const Case& c : some(cases(), 2)) {
    if (c.cout > 100 || c.x.h > 9) continue;  // leaves the exact range
    CAPTURE(c.name);
    Case integers = c;
    integers.activation = Activation::relu;
    Backward backward(integers, Values::integers);
    check_exact(ops::project_backward_variants(), backward);
  }
}

TEST_CASE("project backward: writes only its output") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Backward backward(c, Values::reals);
    check_writes_only_its_output(ops::project_backward_variants(), backward);
  }
}

TEST_CASE("project backward: thread count") {
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    Backward backward(c, Values::reals);
    check_thread_count(ops::project_backward_variants(), backward);
  }
}

// The whole composition in double, whose backward pass rests on sums over images: z -> f(z) ->
// pooled, squeezed and gated -> projected.
TEST_CASE("project backward: gradient") {
  constexpr size_t kN = 2, kPixels = 3, kC = 4, kR = 2, kOut = 3, kRows = kN * kPixels;
  constexpr Activation kF = Activation::swish;
  Rng rng(41, 0, 0, Purpose::synthetic);
  const auto random = [&](size_t count) {
    std::vector<double> v(count);
    for (double& e : v) e = rng.uniform(-1, 1);
    return v;
  };
  std::vector<double> z = random(kRows * kC), w = random(kC * kOut);
  const std::vector<double> w1 = random(kR * kC), b1 = random(kR), w2 = random(kR * kC),
                            b2 = random(kC);
  const std::vector<double> dy = random(kRows * kOut);
  struct Image {
    std::vector<double> mean;
    ops::ref::SqueezeExciteResult<double> se;
  };
  const auto image = [&](size_t n) {
    std::vector<double> m(kC);
    for (size_t i = 0; i < kPixels * kC; ++i) {
      m[i % kC] += ops::ref::activate(kF, z[n * kPixels * kC + i]) / kPixels;
    }
    return Image{m, ops::ref::squeeze_excite_forward(kF, m, w1, b1, w2, b2)};
  };
  const auto gated = [&] {
    std::vector<double> x(z.size());
    for (size_t i = 0; i < z.size(); ++i) {
      x[i] = ops::ref::activate(kF, z[i]) * image(i / (kPixels * kC)).se.gate[i % kC];
    }
    return x;
  };
  const auto loss = [&] {
    std::vector<double> y(dy.size());
    ops::ref::conv1x1_forward(kRows, kC, kOut, gated().data(), kC, w.data(), kOut, y.data(), kOut);
    return dot(y, dy);
  };

  std::vector<double> g(z.size()), dz(z.size()), dw(w.size());
  ops::ref::conv1x1_backward_input(kRows, kC, kOut, dy.data(), kOut, w.data(), kOut, g.data(), kC);
  ops::ref::conv1x1_backward_filter(kRows, kC, kOut, gated().data(), kC, dy.data(), kOut, dw.data(),
                                    kOut);
  for (size_t n = 0; n < kN; ++n) {
    const Image at = image(n);
    std::vector<double> dgate(kC), dw1(w1.size()), db1(kR), dw2(w2.size()), db2(kC);
    const size_t first = n * kPixels * kC;
    for (size_t i = first; i < first + kPixels * kC; ++i) {
      dgate[i % kC] += g[i] * ops::ref::activate(kF, z[i]);
    }
    const std::vector<double> dm =
        ops::ref::squeeze_excite_backward(kF, at.mean, w1, w2, at.se, dgate, dw1, db1, dw2, db2);
    for (size_t i = first; i < first + kPixels * kC; ++i) {
      dz[i] = (g[i] * at.se.gate[i % kC] + dm[i % kC] / kPixels) *
              ops::ref::activate_derivative(kF, z[i]);
    }
  }
  check_gradient("dz", z, dz, loss);
  check_gradient("dw", w, dw, loss);
}

TEST_CASE("project backward: refuses shapes that do not fit together") {
  Backward backward({"", shape({1, 2, 2}, 48), 24, 4}, Values::reals);
  const ops::Context context{Isa::generic, &workers(1), nullptr, 0};
  const auto refused = [&](const auto& change) {
    ops::ProjectBackward args = backward.args_;
    change(args);
    CHECK_THROWS_AS(ops::project_backward(context, args), Error);
  };
  refused([](auto& a) { a.g.shape.h = 3; });
  refused([](auto& a) { a.wt.n = 64; });
  refused([](auto& a) { a.wt.k = 40; });
  refused([](auto& a) { a.dw.k = 64; });
}
