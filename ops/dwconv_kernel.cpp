// The work items of dwconv at one ISA level: see ops/simd.h.
//
// Bound by the activations of what is brought in, 12 cycles a vector forward and about 20 with the
// derivative, beside 9 or 25 FMAs an output. Measured on 2 threads of a Zen 4 (`step_bench
// --profile`, B0 at 224, batch 64, g++ 12; with the exponential of b53198f): 15 to 29 GB/s forward
// and 17 to 31 backward (AVX2 12 to 24, 11 to 20), of 50 that a copy reaches; 5x5 at stride 1
// reaches 0.42 to 0.51 of the FMA peak.
//
// Small images go another way (ops/dwconv_small.h).
//
// With an expand convolution in front, its product takes 0.7 of the item and an activation 12
// cycles a vector of the expanded tensor (AVX-512), so that the FMA ports bind all but the first
// block.

#include "ops/dwconv.h"

#include "ops/dwconv_backward_column.h"
#include "ops/dwconv_forward_column.h"
#include "ops/dwconv_small.h"

namespace mbconv::ops::MBCONV_LEVEL {

DwconvForwardItem dwconv_forward;
DwconvBackwardItem dwconv_backward;

namespace {

template <int K, int S, bool kDirect>
void forward_item(const DwconvForward& args, int slot, int unit, bool staged, float* scratch) {
  const Shape &in = args.x.y.shape, &out = args.y.shape;
  const RowCut& cut = args.cut.lines;
  const RowCut::Range range = cut.item(slot, out.n, out.h);
  const int top = same_padding(in.h, K, S).before;
  const int at_once = args.expand ? dwconv_expand_lines(in) : 1;
  Scratch memory(scratch);
  ForwardColumn<K, S, kDirect> columns[kColumns];
  const int count = columns_of(in, unit);
  for (int i = 0; i < count; ++i)
    columns[i] = {args, slot, unit * kWideBlock + i * kLane, K + at_once - 1, staged, memory};
  const LineRing& ring = columns[0].ring();
  Ahead weights = expand_weights_after(args.expand, unit, at_once * in.w);
  const ptrdiff_t pitch = count > 1 ? columns[1].ring().line(0) - ring.line(0) : 0;

  for (int n = range.first_image; n < range.first_image + range.images; ++n) {
    const int64_t base = int64_t{n} * out.h;
    const int first = static_cast<int>(range.begin > base ? range.begin - base : 0);
    const int last = static_cast<int>(range.end - base < out.h ? range.end - base : out.h);
    // Lines that other ranges read as well are written to x_out by the one they fall in.
    const int own_first = first * S, own_last = last == out.h ? in.h : last * S;
    const int past = (last - 1) * S - top + K < in.h ? (last - 1) * S - top + K : in.h;
    double* partial = args.pool_partial;
    if (partial != nullptr) partial += ptrdiff_t{n * cut.parts + slot % cut.parts} * out.padded_c();
    for (int i = 0; i < count; ++i) columns[i].begin(partial);
    int next = first * S - top > 0 ? first * S - top : 0;
    for (int o = first; o < last; ++o) {
      const int row = o * S - top, begin = row > 0 ? row : 0, end = row + K < in.h ? row + K : in.h;
      int loaded = next;
      while (args.expand && loaded < end) {
        const int lines = past - loaded < at_once ? past - loaded : at_once;
        expand_lines(args.expand, n, loaded, lines, unit, ring, pitch, weights);
        loaded += lines;
      }
      ptrdiff_t offset[K];
      for (int h = begin; h < end; ++h) offset[h - begin] = ring.offset(h);
      in_turns(
          count,
          [&](int i) {
            for (int h = next; h < loaded; ++h) columns[i].finish_line(h);
            for (int h = loaded; h < end; ++h)
              columns[i].load_line(n, h, h >= own_first && h < own_last);
          },
          [&](int i) { columns[i].line(n, o, offset, end - begin, begin - row); });
      next = loaded > end ? loaded : end > next ? end : next;
    }
    for (int i = 0; i < count; ++i) columns[i].end();
  }
  for (int i = 0; i < count; ++i) columns[i].finish();
}

template <int K, int S, bool kDirect>
void backward_item(const DwconvBackward& args, int slot, int unit, bool staged, float* scratch) {
  const Shape& in = args.x.y.shape;
  const Shape& out = args.dy.shape();
  const RowCut& cut = args.cut.lines;
  const RowCut::Range range = cut.item(slot, in.n, in.h);
  const int top = same_padding(in.h, K, S).before;
  Scratch memory(scratch);
  BackwardColumn<K, S, kDirect> columns[kColumns];
  const int count = columns_of(in, unit);
  for (int i = 0; i < count; ++i)
    columns[i] = {args, slot, unit * kWideBlock + i * kLane, staged, memory};

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
  const auto [dw, add] = filter_place(args, slot);
  for (int i = 0; i < count; ++i) columns[i].finish(dw, add);
}

}  // namespace

void dwconv_forward(const DwconvForward& args, int slot, int unit, float* scratch) {
  const bool stream_raw = !args.finish && streams(args.y.shape);
  if (is_small(args.x.y.shape, args.ksize, args.stride, args.cut) && !args.expand && !args.finish) {
    with_flag(stream_raw, [&](auto stream) {
      small_forward_item<decltype(stream)::value>(args, slot, unit, scratch);
    });
  } else {
    const bool direct = streams_directly(stream_raw, true);
    with_kind(args.ksize, args.stride, direct, [&](auto k, auto s, auto flag) {
      forward_item<k.value, s.value, flag.value>(args, slot, unit, stream_raw && !direct, scratch);
    });
  }
  fence_streams();
}

void dwconv_backward(const DwconvBackward& args, int slot, int unit, float* scratch) {
  const bool streamed = streams(args.dx.dz.shape);
  if (is_small(args.x.y.shape, args.ksize, args.stride, args.cut)) {
    with_flag(streamed, [&](auto stream) {
      small_backward_item<decltype(stream)::value>(args, slot, unit, scratch);
    });
  } else {
    // A class of pixels leaves after the other (see TapClass). (Granite Rapids, B0 at 224: of
    // stride 2 staged lines take 0.92 of the time.)
    const bool direct = streams_directly(streamed, args.stride == 1);
    with_kind(args.ksize, args.stride, direct, [&](auto k, auto s, auto flag) {
      backward_item<k.value, s.value, s.value == 1 && flag.value>(args, slot, unit,
                                                                  streamed && !direct, scratch);
    });
  }
  fence_streams();
}

}  // namespace mbconv::ops::MBCONV_LEVEL
