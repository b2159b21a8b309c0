#pragma once

// One column of channels of the depthwise backward pass, per ISA level (see ops/simd.h).

#include "ops/dwconv.h"
#include "ops/dwconv_unit.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// The taps of a filter line that reach input pixels j = D mod S of a line: t = first + S m, in
// descending order, so that the gradient of x is a plain correlation over dy,
//   dx[S u + D] = sum over t' of dy[u + start + t'] flipped[t'].
struct TapClass {
  int first, taps, start, pixels;
  TapClass(int d, int ksize, int stride, int left, int width)
      : first((d + left) % stride),
        taps((ksize - first + stride - 1) / stride),
        start((d + left - first) / stride - (taps - 1)),
        pixels((width - d + stride - 1) / stride) {}
  // Filter column of tap t'.
  int column(int tap, int stride) const { return first + stride * (taps - 1 - tap); }
};

// One column of a backward pass. kDirect: dx is streamed from the registers.
template <int K, int S, bool kDirect>
class BackwardColumn {
 public:
  BackwardColumn() = default;
  BackwardColumn(const DwconvBackward& args, int slot, int c0, bool staged, Scratch& memory)
      : args_(&args),
        c0_(c0),
        left_(same_padding(args.x.y.shape.w, K, S).before),
        x_lines_(args.x.y.shape, c0),
        dy_lines_(args.dy.shape(), c0),
        a_(memory.take(ptrdiff_t{args.x.y.shape.w} * kLane)),
        slopes_(memory.take(ptrdiff_t{args.x.y.shape.w} * kLane)),
        flipped_(memory.take(K * K * kLane)),
        dflipped_(memory.take(K * K * kLane)),
        dy_(memory, K, args.dy.shape().w, K),
        sums_(memory, args.dx.sums, slot, c0) {
    if (staged) staged_ = memory.take(ptrdiff_t{args.x.y.shape.w} * kLane);
    clear(dflipped_, K * K * kLane);
    for_each_tap([&](int tap, int place) {
      copy_row(filter_tap(args.w, tap, c0), kLane, flipped_ + place * kLane);
    });
  }

  // Brings in line o of dy of image n.
  void load_dy(int n, int o) const {
    load_grad_pixels(args_->dy, dy_lines_(n, o), c0_, kLane, dy_.line(o), kLane);
  }

  // Brings in input line h of image n and the derivative of its activation.
  void load_x(int n, int h) const {
    load_values_and_slopes<kLane>(args_->x, x_lines_(n, h), c0_, kLane, a_, slopes_);
  }

  // Where line o of dy lies, the same for all columns.
  ptrdiff_t offset(int o) const { return dy_.offset(o); }

  // dx and dw of input line h of image n, from `count` lines of dy at offset[], the first of which
  // met the line with line `row` of the filter.
  void line(int n, int h, const ptrdiff_t* offset, int count, int row) {
    const Pixels pixels = x_lines_(n, h);
    int place = row * K;
    for (int d = 0; d < S; ++d) {
      const TapClass taps(d, K, S, left_, pixels.count);
      const ptrdiff_t filter = ptrdiff_t{place} * kLane;
      Lines lines{dy_.line(0) + ptrdiff_t{taps.start} * kLane, offset, flipped_ + filter,
                  -S * K * kLane, count};
      if (taps.taps == (K + S - 1) / S) {
        correlate<(K + S - 1) / S>(d, taps.pixels, lines, dflipped_ + filter, pixels);
      } else {
        correlate<K / S>(d, taps.pixels, lines, dflipped_ + filter, pixels);
      }
      place += taps.taps;
    }
    if (staged_ != nullptr) stream_line(staged_, pixels, args_->dx.dz.data);
  }

  // Empties the sums; the filter gradient goes to `dw`, added to what is there with `add`.
  void finish(Packed<float> dw, bool add) {
    sums_.flush();
    for_each_tap([&](int tap, int place) {
      float* to = filter_tap(dw, tap, c0_);
      for (int c = 0; c < kLane; c += kWidth) {
        const V sum = load(dflipped_ + place * kLane + c);
        store(to + c, add ? load(to + c) + sum : sum);
      }
    });
  }

 private:
  // Calls body(tap, place): in scratch memory the taps of a filter line are grouped by class.
  template <class Body>
  void for_each_tap(const Body& body) const {
    for (int r = 0; r < K; ++r) {
      int place = r * K;
      for (int d = 0; d < S; ++d) {
        const TapClass taps(d, K, S, left_, x_lines_.width());
        for (int t = 0; t < taps.taps; ++t, ++place) body(r * K + taps.column(t, S), place);
      }
    }
  }

  // dw and dx of the `count` pixels of class d of an input line.
  template <int T>
  void correlate(int d, int count, Lines& lines, float* dw, const Pixels& pixels) {
    dwconv_filter_lines<T, S>(a_ + d * kLane, lines, count, dw);
    for_each_piece(count, [&](int q0, int q1) {
      store_dx<T>(lines, q0 * S + d, q1 - q0, pixels);
      lines.x += ptrdiff_t{q1 - q0} * kLane;
    });
  }

  // `count` pixels of dx, S apart, from pixel w on.
  template <int T>
  void store_dx(const Lines& lines, int w, int count, const Pixels& pixels) {
    const InputGrad& dx = args_->dx;
    const Pixels every = pixels.from(w, count, S);
    float* sums = sums_.reserve(count);
    with_flag(static_cast<bool>(dx.skip), [&](auto skip) {
      StoreInputGrad<decltype(skip)::value, kDirect> out;
      out.y = dx.y.data + every.offset;
      out.skip = at(dx.skip.data, every.offset);
      out.stride = every.stride;
      out.ahead = every.ahead;
      out.ahead_stride = every.ahead_stride;
      out.dz = staged_ != nullptr ? staged_ + w * kLane : dx.dz.data + every.offset;
      out.dz_stride = staged_ != nullptr ? S * kLane : out.stride;
      out.slopes = slopes_ + w * kLane;
      out.slopes_stride = S * kLane;
      out.mean = dx.mean + c0_;
      out.invstd = dx.invstd + c0_;
      out.sums = sums;
      dwconv_line<T, 1>(lines, count, out);
    });
  }

  const DwconvBackward* args_ = nullptr;
  int c0_ = 0, left_ = 0;
  ColumnLines x_lines_, dy_lines_;
  float *a_ = nullptr, *slopes_ = nullptr;          // one line each, [W][kLane]
  float *flipped_ = nullptr, *dflipped_ = nullptr;  // [K][K][kLane]
  float* staged_ = nullptr;                         // [W][kLane]
  LineRing dy_;
  ColumnSums sums_;
};

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
