// The work items of dwconv at one ISA level: see ops/simd.h.
//
// Bound by the activations of what is brought in, 12 cycles a vector forward and 16 with the
// derivative, beside 9 or 25 FMAs an output. Measured on 2 threads of a Zen 4 (`step_bench
// --profile`, B0 at 224, batch 64, g++ 12): 15 to 27 GB/s forward and 14 to 26 backward (AVX2 10 to
// 18, 9 to 20), of 49 that a copy reaches; 5x5 at stride 1 reaches 0.41 to 0.53 of the FMA peak.

#include "ops/dwconv.h"

#include "ops/dwconv_unit.h"

namespace mbconv::ops::MBCONV_LEVEL {

DwconvForwardItem dwconv_forward;
DwconvBackwardItem dwconv_backward;

namespace {

// One column of a forward pass.
template <int K, int S, bool kStream>
class ForwardColumn {
 public:
  ForwardColumn() = default;
  ForwardColumn(const DwconvForward& args, int slot, int c0, Scratch& memory)
      : args_(&args),
        c0_(c0),
        left_(same_padding(args.x.y.shape.w, K, S).before),
        x_lines_(args.x.y.shape, c0),
        y_lines_(args.y.shape, c0),
        filter_(memory.take(K * K * kLane)),
        ring_(memory, args.x.y.shape.w),
        sums_(memory, args.sums, slot, c0) {
    for (int t = 0; t < K * K; ++t) copy_row(filter_tap(args.w, t, c0), kLane, filter_ + t * kLane);
    if constexpr (kStaged<kStream>) staged_ = memory.take(ptrdiff_t{args.y.shape.w} * kLane);
  }

  // Brings in input line h of image n, and writes it to x_out if it is the item's own.
  void load_line(int n, int h, bool own) const {
    load_pixels(args_->x, own ? args_->x_out : View<float>{}, x_lines_(n, h), c0_, kLane,
                ring_.line(h), kLane);
  }

  // Where line h lies, the same for all columns.
  ptrdiff_t offset(int h) const { return ring_.offset(h); }

  // Output line o of image n, from `count` input lines at offset[], the first of them at line `row`
  // of the filter.
  void line(int n, int o, const ptrdiff_t* offset, int count, int row) {
    const Pixels pixels = y_lines_(n, o);
    float* y = kStaged<kStream> ? staged_ : args_->y.data + pixels.offset;
    const ptrdiff_t stride = kStaged<kStream> ? kLane : pixels.stride;
    for_each_piece(pixels.count, [&](int q0, int q1) {
      constexpr bool kDirect = kStream && !kStaged<kStream>;
      const Lines lines{ring_.line(0) + ptrdiff_t{q0 * S - left_} * kLane, offset,
                        filter_ + row * K * kLane, K * kLane, count};
      dwconv_line<K, S>(
          lines, q1 - q0,
          StoreLine<kDirect>{y + q0 * stride, stride, args_->pivot + c0_, sums_.reserve(q1 - q0)});
    });
    if constexpr (kStaged<kStream>) stream_pixels(staged_, kLane, pixels, kLane, args_->y.data);
  }

  void finish() { sums_.flush(); }

 private:
  const DwconvForward* args_ = nullptr;
  int c0_ = 0, left_ = 0;
  ColumnLines x_lines_, y_lines_;
  float *filter_ = nullptr, *staged_ = nullptr;
  LineRing<K> ring_;
  ColumnSums sums_;
};

template <int K, int S, bool kStream>
void forward_item(const DwconvForward& args, int slot, int unit, float* scratch) {
  const Shape& in = args.x.y.shape;
  const Shape& out = args.y.shape;
  const RowCut::Range range = args.cut.lines.item(slot, out.n, out.h);
  const int top = same_padding(in.h, K, S).before;
  Scratch memory(scratch);
  ForwardColumn<K, S, kStream> columns[kColumns];
  const int count = columns_of(in, unit);
  for (int i = 0; i < count; ++i) columns[i] = {args, slot, unit * kWideBlock + i * kLane, memory};

  for (int n = range.first_image; n < range.first_image + range.images; ++n) {
    const int64_t base = int64_t{n} * out.h;
    const int first = static_cast<int>(range.begin > base ? range.begin - base : 0);
    const int last = static_cast<int>(range.end - base < out.h ? range.end - base : out.h);
    // Lines that other ranges read as well are written to x_out by the one they fall in.
    const int own_first = first * S, own_last = last == out.h ? in.h : last * S;
    int next = first * S - top > 0 ? first * S - top : 0;
    for (int o = first; o < last; ++o) {
      const int row = o * S - top, begin = row > 0 ? row : 0, end = row + K < in.h ? row + K : in.h;
      ptrdiff_t offset[K];
      for (int h = begin; h < end; ++h) offset[h - begin] = columns[0].offset(h);
      in_turns(
          count,
          [&](int i) {
            for (int h = next; h < end; ++h)
              columns[i].load_line(n, h, h >= own_first && h < own_last);
          },
          [&](int i) { columns[i].line(n, o, offset, end - begin, begin - row); });
      if (next < end) next = end;
    }
  }
  for (int i = 0; i < count; ++i) columns[i].finish();
}

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

// One column of a backward pass.
template <int K, int S, bool kStream>
class BackwardColumn {
 public:
  BackwardColumn() = default;
  BackwardColumn(const DwconvBackward& args, int slot, int c0, Scratch& memory)
      : args_(&args),
        c0_(c0),
        left_(same_padding(args.x.y.shape.w, K, S).before),
        x_lines_(args.x.y.shape, c0),
        dy_lines_(args.dy.shape(), c0),
        a_(memory.take(ptrdiff_t{args.x.y.shape.w} * kLane)),
        slopes_(memory.take(ptrdiff_t{args.x.y.shape.w} * kLane)),
        flipped_(memory.take(K * K * kLane)),
        dflipped_(memory.take(K * K * kLane)),
        dy_(memory, args.dy.shape().w),
        sums_(memory, args.dx.sums, slot, c0) {
    if constexpr (kStaged<kStream>) staged_ = memory.take(ptrdiff_t{args.x.y.shape.w} * kLane);
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
    const Pixels pixels = x_lines_(n, h);
    const Deferred& x = args_->x;
    const float* y = x.y.data + pixels.offset;
    float *values = a_, *slopes = slopes_;
    const float *scales = at(x.scale, c0_), *shifts = at(x.shift, c0_);
    with_activation(scales != nullptr ? x.activation : Activation::linear, [&](auto f) {
      for_each_run(pixels.count, kLane, [&](int w0, int w1, int c) {
        const V scale = load_or(scales, c, 1.0f), shift = load_or(shifts, c, 0.0f);
        for (int w = w0; w < w1; ++w) {
          V slope;
          const float* pixel = y + w * pixels.stride + c;
          prefetch(pixel + pixels.ahead);
          const V z = madd(scale, load(pixel), shift);
          store(values + w * kLane + c, decltype(f)::value(z, slope));
          store(slopes + w * kLane + c, slope);
        }
      });
    });
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
    if constexpr (kStaged<kStream>) stream_pixels(staged_, kLane, pixels, kLane, args_->dx.dz.data);
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
    const ptrdiff_t offset = pixels.offset + w * pixels.stride;
    float* sums = sums_.reserve(count);
    with_flag(static_cast<bool>(dx.skip), [&](auto skip) {
      StoreInputGrad<decltype(skip)::value, kStream> out;
      out.y = dx.y.data + offset;
      out.skip = at(dx.skip.data, offset);
      out.dz = kStaged<kStream> ? staged_ + w * kLane : dx.dz.data + offset;
      out.stride = S * pixels.stride;
      out.ahead = pixels.ahead;
      out.slopes = slopes_ + w * kLane;
      out.scratch_stride = S * kLane;
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
  LineRing<K> dy_;
  ColumnSums sums_;
};

template <int K, int S, bool kStream>
void backward_item(const DwconvBackward& args, int slot, int unit, float* scratch) {
  const Shape& in = args.x.y.shape;
  const Shape& out = args.dy.shape();
  const RowCut& cut = args.cut.lines;
  const RowCut::Range range = cut.item(slot, in.n, in.h);
  const int top = same_padding(in.h, K, S).before;
  Scratch memory(scratch);
  BackwardColumn<K, S, kStream> columns[kColumns];
  const int count = columns_of(in, unit);
  for (int i = 0; i < count; ++i) columns[i] = {args, slot, unit * kWideBlock + i * kLane, memory};

  for (int n = range.first_image; n < range.first_image + range.images; ++n) {
    const int64_t base = int64_t{n} * in.h;
    const int first = static_cast<int>(range.begin > base ? range.begin - base : 0);
    const int last = static_cast<int>(range.end - base < in.h ? range.end - base : in.h);
    int next = 0;  // line of dy to load
    for (int h = first; h < last; ++h) {
      // Lines o with a tap r = h + top - S o in [0, K).
      const int lowest = h + top - (K - 1);
      const int o0 = lowest > 0 ? (lowest + S - 1) / S : 0;
      const int highest = (h + top) / S + 1;
      const int o1 = highest < out.h ? highest : out.h;
      ptrdiff_t offset[K];
      for (int o = o0; o < o1; ++o) offset[o - o0] = columns[0].offset(o);
      in_turns(
          count,
          [&](int i) {
            for (int o = next < o0 ? o0 : next; o < o1; ++o) columns[i].load_dy(n, o);
            columns[i].load_x(n, h);
          },
          [&](int i) { columns[i].line(n, h, offset, o1 - o0, h + top - S * o0); });
      if (next < o1) next = o1;
    }
  }
  Packed<float> dw = args.dw;
  const bool add = cut.items() == 1;  // a slot is overwritten
  if (!add) dw.data = args.dw_slots + slot * static_cast<ptrdiff_t>(dw.size());
  for (int i = 0; i < count; ++i) columns[i].finish(dw, add);
}

}  // namespace

void dwconv_forward(const DwconvForward& args, int slot, int unit, float* scratch) {
  with_kind(args.ksize, args.stride, streams(args.y.shape), [&](auto k, auto s, auto stream) {
    forward_item<k.value, s.value, stream.value>(args, slot, unit, scratch);
  });
  fence_streams();
}

void dwconv_backward(const DwconvBackward& args, int slot, int unit, float* scratch) {
  with_kind(args.ksize, args.stride, streams(args.dx.dz.shape), [&](auto k, auto s, auto stream) {
    backward_item<k.value, s.value, stream.value>(args, slot, unit, scratch);
  });
  fence_streams();
}

}  // namespace mbconv::ops::MBCONV_LEVEL
