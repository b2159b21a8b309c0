// The work items of dwconv at one ISA level: see ops/simd.h.
//
// Bound by the activations of what is brought in, 12 cycles a vector forward and 16 with the
// derivative, beside 9 or 25 FMAs an output. Measured on 2 threads of a Zen 4 (`step_bench
// --profile`, B0 at 224, batch 64, g++ 12): 15 to 27 GB/s forward and 14 to 26 backward (AVX2 10 to
// 18, 9 to 20), of 49 that a copy reaches; 5x5 at stride 1 reaches 0.41 to 0.53 of the FMA peak.
//
// With an expand convolution in front, its product takes 0.7 of the item and an activation 12 cycles
// a vector of the expanded tensor (AVX-512), so that the FMA ports bind all but the first block.

#include "ops/dwconv.h"

#include "ops/dwconv_unit.h"

namespace mbconv::ops::MBCONV_LEVEL {

DwconvForwardItem dwconv_forward;
DwconvBackwardItem dwconv_backward;

namespace {

// Lines [h, h + count) of image n and one unit of channels, expanded into the ring.
[[gnu::noinline]] void expand_lines(const DwconvExpand& expand, int n, int h, int count,
                                    const Unit& unit, const LineRing& ring) {
  const Shape& v = expand.v.shape;
  const int panel = unit.c0 / kWideBlock;
  float* base = ring.line(0);
  int line = h, pixel = 0;
  for (int rows = count * v.w; rows > 0; rows -= kTileRows) {
    const int m = rows < kTileRows ? rows : kTileRows;
    const float* x = expand.v.pixel(n, 0, line * v.w + pixel);
    ptrdiff_t offset[kTileRows];
    for (int r = 0; r < m;) {
      const ptrdiff_t first = ring.line(line) - base - unit.c0;
      for (; r < m && pixel < v.w; ++r, ++pixel) offset[r] = first + ptrdiff_t{pixel} * unit.width;
      if (pixel == v.w) {
        pixel = 0;
        ++line;
      }
    }
    gemm_panel(m, expand.w.k, {x, v.block}, expand.w, 0, panel, {nullptr, 0},
               StoreOutput<false>{base, offset, nullptr, nullptr, 0});
  }
  with_activation(expand.finish.activation, [&](auto f) {
    for (int i = h; i < h + count; ++i) {
      float* x = ring.line(i);
      finish_products<decltype(f), false, false>(expand.finish, x, unit.width,
                                                 {n, 0, unit.width, v.w, 0}, unit.c0, unit.width, x,
                                                 nullptr);
    }
  });
}

// The input lines of one channel unit, brought into a ring one after the other.
class InputLines {
 public:
  InputLines(const DwconvForward& args, const Unit& unit, Scratch& memory)
      : args_(args),
        unit_(unit),
        in_(args.x.y.shape),
        at_once_(args.expand ? dwconv_expand_lines(in_) : 1),
        ring_(memory, args.ksize + at_once_ - 1, in_.w, args.ksize / 2, unit.width) {}

  // Image n, of which lines from `first` on and before `last` will be asked for. Lines that other
  // ranges read as well are written to x_out by the one they fall in: here, those in `own`.
  struct Own {
    int first, last;
  };
  void begin(int n, int first, int last, Own own) {
    n_ = n;
    next_ = first > 0 ? first : 0;
    last_ = last < in_.h ? last : in_.h;
    own_ = own;
  }
  // Lines before `end`; the last args.ksize of them stay.
  void bring(int end) {
    for (; next_ < end; next_ += at_once_) {
      if (args_.expand) {
        const int left = last_ - next_;
        expand_lines(args_.expand, n_, next_, left < at_once_ ? left : at_once_, unit_, ring_);
      } else {
        const bool own = next_ >= own_.first && next_ < own_.last;
        load_pixels(args_.x, own ? args_.x_out : View<float>{}, line_pixels(in_, n_, next_, unit_),
                    unit_.c0, unit_.width, ring_.line(next_), unit_.width);
      }
    }
  }
  const float* line(int h) const { return ring_.line(h); }

 private:
  const DwconvForward& args_;
  const Unit& unit_;
  const Shape& in_;
  int at_once_;
  LineRing ring_;
  int n_ = 0, next_ = 0, last_ = 0;
  Own own_ = {};
};

// One line of products to y, and their sums on their way to the pool.
inline void finish_line(const DwconvForward& args, const Unit& unit, float* products,
                        const Pixels& line, UnitSums& pool) {
  for_each_piece(line.count, [&](int q0, int q1) {
    Pixels piece = line;
    piece.offset += q0 * line.stride;
    piece.count = q1 - q0;
    store_finished(args.finish, products + ptrdiff_t{q0} * unit.width, unit.width, piece, unit.c0,
                   unit.width, args.y, pool.reserve(piece.count));
  });
}

// kStream: y is raw and stored past the caches.
template <int K, int S, bool kStream>
void forward_item(const DwconvForward& args, int slot, int index, float* scratch) {
  const Shape &in = args.x.y.shape, &out = args.y.shape;
  const RowCut& cut = args.cut.lines;
  const RowCut::Range range = cut.item(slot, out.n, out.h);
  const int top = same_padding(in.h, K, S).before, left = same_padding(in.w, K, S).before;

  Scratch memory(scratch);
  const Unit unit(in, index);
  const float* filter = args.w.panel(index);
  UnitSums sums(memory.take(2 * unit.width), unit, args.sums, slot);
  float* pool_sums = memory.take(unit.width);
  InputLines input(args, unit, memory);
  float* staged =
      kStaged<kStream> || args.finish ? memory.take(ptrdiff_t{out.w} * unit.width) : nullptr;

  for (int n = range.first_image; n < range.first_image + range.images; ++n) {
    const int64_t base = int64_t{n} * out.h;
    const int first = static_cast<int>(range.begin > base ? range.begin - base : 0);
    const int last = static_cast<int>(range.end - base < out.h ? range.end - base : out.h);
    input.begin(n, first * S - top, (last - 1) * S - top + K,
                {first * S, last == out.h ? in.h : last * S});
    double* partial = args.pool_partial;
    if (partial != nullptr) partial += ptrdiff_t{n * cut.parts + slot % cut.parts} * out.padded_c();
    UnitSums pool(pool_sums, unit, 1, partial, out.padded_c());
    for (int o = first; o < last; ++o) {
      const int begin = o * S - top, end = begin + K < in.h ? begin + K : in.h;
      input.bring(end);
      const Pixels pixels = line_pixels(out, n, o, unit);
      float* y = staged != nullptr ? staged : args.y.data + pixels.offset;
      const ptrdiff_t stride = staged != nullptr ? unit.width : pixels.stride;
      for_each_piece(out.w, [&](int q0, int q1) {
        Lines lines;
        lines.channels = unit.width;
        for (int h = begin > 0 ? begin : 0; h < end; ++h) {
          lines.add(input.line(h) + ptrdiff_t{q0 * S - left} * unit.width,
                    filter + ptrdiff_t{h - begin} * K * unit.width);
        }
        constexpr bool kStreamLine = kStream && !kStaged<kStream>;
        dwconv_line<K, S>(lines, q1 - q0,
                          StoreLine<kStreamLine>{y + q0 * stride, stride, at(args.pivot, unit.c0),
                                                 sums.reserve(q1 - q0), unit.width});
      });
      if (args.finish) {
        finish_line(args, unit, staged, pixels, pool);
      } else if constexpr (kStaged<kStream>) {
        stream_pixels(staged, unit.width, pixels, unit.width, args.y.data);
      }
    }
    pool.flush();
  }
  sums.flush();
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

// One channel unit of a backward pass: what stays the same from line to line.
template <int K, int S, bool kStream>
struct BackwardUnit {
  const DwconvBackward& args;
  const Shape& in;
  const Shape& out;
  Unit unit;
  int top, left;
  LineRing dy;
  float *a, *derivative, *dx;  // one line each, [W][width]
  float *flipped, *dflipped;   // [K][K][width], the taps of each line grouped by class

  BackwardUnit(const DwconvBackward& p, int index, Scratch& memory)
      : args(p),
        in(p.x.y.shape),
        out(p.dy.shape()),
        unit(in, index),
        top(same_padding(in.h, K, S).before),
        left(same_padding(in.w, K, S).before),
        dy(memory, K, out.w, K, unit.width) {
    const ptrdiff_t line = ptrdiff_t{in.w} * unit.width;
    a = memory.take(line);
    derivative = memory.take(line);
    dx = memory.take(line);
    flipped = memory.take(K * K * unit.width);
    dflipped = memory.take(K * K * unit.width);
    clear(dflipped, K * K * unit.width);
    for_each_tap(args.w.panel(index),
                 [&](const float* w, int to) { copy_row(w, unit.width, flipped + to); });
  }

  // Calls body(filter + tap, offset in flipped) for each tap of `filter`, [K*K][width].
  template <class T, class Body>
  void for_each_tap(T* filter, const Body& body) const {
    for (int r = 0; r < K; ++r) {
      int place = 0;
      for (int d = 0; d < S; ++d) {
        const TapClass taps(d, K, S, left, in.w);
        for (int t = 0; t < taps.taps; ++t, ++place) {
          body(filter + (r * K + taps.column(t, S)) * unit.width, (r * K + place) * unit.width);
        }
      }
    }
  }

  void load_dy(int n, int o) const {
    load_grad_pixels(args.dy, line_pixels(out, n, o, unit), unit.c0, unit.width, dy.line(o),
                     unit.width);
  }

  // The input line and the derivative of its activation.
  void load_x(int n, int h) const {
    const float* y = args.x.y.data + line_pixels(in, n, h, unit).offset;
    const float *scales = at(args.x.scale, unit.c0), *shifts = at(args.x.shift, unit.c0);
    with_activation(pending_activation(args.x), [&](auto f) {
      for_each_run(in.w, unit.width, [&](int w0, int w1, int c) {
        const V scale = load_or(scales, c, 1.0f), shift = load_or(shifts, c, 0.0f);
        for (int w = w0; w < w1; ++w) {
          V slope;
          const float* pixel = y + ptrdiff_t{w} * in.block + c;
          prefetch(pixel + kAhead);
          const V z = madd(scale, load(pixel), shift);
          store(a + w * unit.width + c, decltype(f)::value(z, slope));
          store(derivative + w * unit.width + c, slope);
        }
      });
    });
  }

  // dx and dw of input line h of the pixels of one class, from the lines [o0, o1) of dy.
  template <int T>
  void correlate(int d, const TapClass& taps, int place, int h, int o0, int o1) const {
    Lines lines;
    lines.channels = unit.width;
    float* dw[kMaxTaps];
    for (int o = o0; o < o1; ++o) {
      const ptrdiff_t filter = ptrdiff_t{(h + top - S * o) * K + place} * unit.width;
      dw[lines.count] = dflipped + filter;
      lines.add(dy.line(o) + ptrdiff_t{taps.start} * unit.width, flipped + filter);
    }
    dwconv_filter_lines<T>(a + d * unit.width, S * unit.width, lines.x, lines.count, taps.pixels,
                           unit.width, dw);
    dwconv_line<T, 1>(
        lines, taps.pixels,
        StoreLine<false>{dx + d * unit.width, S * unit.width, nullptr, nullptr, unit.width});
  }

  void line(int n, int h, int o0, int o1, UnitSums& sums) const {
    load_x(n, h);
    int place = 0;
    for (int d = 0; d < S; ++d) {
      const TapClass taps(d, K, S, left, in.w);
      if (taps.taps == (K + S - 1) / S) {
        correlate<(K + S - 1) / S>(d, taps, place, h, o0, o1);
      } else {
        correlate<K / S>(d, taps, place, h, o0, o1);
      }
      place += taps.taps;
    }
    Pixels pixels = line_pixels(in, n, h, unit);
    with_flag(static_cast<bool>(args.dx.skip), [&](auto skip) {
      for_each_piece(in.w, [&](int w0, int w1) {
        float* to = sums.reserve(w1 - w0);
        const ptrdiff_t first = ptrdiff_t{w0} * unit.width;
        pixels.count = w1 - w0;
        input_grad_pixels<Linear, decltype(skip)::value, kStream>(
            args.dx, dx + first, derivative + first, unit.width, pixels, unit.c0, unit.width, to,
            to + unit.width);
        pixels.offset += pixels.count * pixels.stride;
      });
    });
  }
};

template <int K, int S, bool kStream>
void backward_item(const DwconvBackward& args, int slot, int index, float* scratch) {
  Scratch memory(scratch);
  const BackwardUnit<K, S, kStream> unit(args, index, memory);
  UnitSums sums(memory.take(2 * unit.unit.width), unit.unit, args.dx.sums, slot);
  const Shape& in = unit.in;
  const RowCut& cut = args.cut.lines;
  const RowCut::Range range = cut.item(slot, in.n, in.h);

  for (int n = range.first_image; n < range.first_image + range.images; ++n) {
    const int64_t base = int64_t{n} * in.h;
    const int first = static_cast<int>(range.begin > base ? range.begin - base : 0);
    const int last = static_cast<int>(range.end - base < in.h ? range.end - base : in.h);
    int next = 0;  // line of dy to load
    for (int h = first; h < last; ++h) {
      // Lines o with a tap r = h + top - S o in [0, K).
      const int lowest = h + unit.top - (K - 1);
      const int o0 = lowest > 0 ? (lowest + S - 1) / S : 0;
      const int highest = (h + unit.top) / S + 1;
      const int o1 = highest < unit.out.h ? highest : unit.out.h;
      if (next < o0) next = o0;
      for (; next < o1; ++next) unit.load_dy(n, next);
      unit.line(n, h, o0, o1, sums);
    }
  }
  sums.flush();
  Packed<float> dw = args.dw;
  const bool overwrite = cut.items() > 1;
  if (overwrite) dw.data = args.dw_slots + slot * static_cast<ptrdiff_t>(dw.size());
  unit.for_each_tap(dw.panel(index), [&](float* to, int from) {
    for (int c = 0; c < unit.unit.width; c += kWidth) {
      const V sum = load(unit.dflipped + from + c);
      store(to + c, overwrite ? sum : load(to + c) + sum);
    }
  });
}

}  // namespace

void dwconv_forward(const DwconvForward& args, int slot, int unit, float* scratch) {
  const bool stream_raw = !args.finish && streams(args.y.shape);
  with_kind(args.ksize, args.stride, stream_raw, [&](auto k, auto s, auto stream) {
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
