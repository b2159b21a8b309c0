#pragma once

// What the depthwise passes share, per ISA level (see ops/simd.h).

#include "ops/column_sums.h"
#include "ops/dwconv.h"
#include "ops/dwconv_line.h"
#include "ops/epilogue.h"
#include "ops/padding.h"

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

// A unit is worked on in columns of kLane channels, in turns line by line: the lines of one column
// stay in L1 from one step to the next, and memory is still read in nearly its order.
constexpr int kColumns = kWideBlock / kLane;

inline int columns_of(const Shape& shape, int unit) {
  const int left = (shape.padded_c() - unit * kWideBlock) / kLane;
  return left < kColumns ? left : kColumns;
}

// Calls load(i), then work(i), for each of `count` columns; the next one is loaded first, so that
// no column waits for what has just been computed.
template <class Load, class Work>
inline void in_turns(int count, const Load& load, const Work& work) {
  load(0);
  for (int i = 0; i < count; ++i) {
    if (i + 1 < count) load(i + 1);
    work(i);
  }
}

// The lines of a tensor at one column of channels. A line asks for the one that comes `lines_ahead`
// later: as many as are read one after the other, or a multiple of that. Where a unit's columns
// make up whole pixels each of them asks for its share of that line as one run of memory, not for
// its own channels, which arrives sooner. (Zen 3, B0 at 224: depthwise backward passes over maps of
// 112 to 28 pixels take 0.85 of their time, forward 0.90; by two lines ahead those of stride 2 0.73
// to 0.86 of that.)
class ColumnLines {
 public:
  ColumnLines() = default;
  ColumnLines(const Shape& shape, int c0, int lines_ahead = 1)
      : offset_(channel_offset(shape, c0)),
        image_(shape.image_stride()),
        line_(ptrdiff_t{shape.w} * shape.block),
        ahead_(lines_ahead * line_),
        ahead_stride_(shape.block),
        block_(shape.block),
        width_(shape.w) {
    if (shape.block > kWideBlock) return;
    ahead_ += ptrdiff_t{c0 % shape.block} * (shape.w - 1);
    ahead_stride_ = kLane;
  }
  // The pixels of line h of image n.
  Pixels operator()(int n, int h) const {
    return {n, offset_ + n * image_ + h * line_, block_, width_, ahead_, ahead_stride_};
  }
  int width() const { return width_; }

 private:
  ptrdiff_t offset_ = 0, image_ = 0, line_ = 0, ahead_ = 0, ahead_stride_ = 0;
  int block_ = 0, width_ = 0;
};

// Where channel c0 of tap `tap` of a filter lies.
template <class T>
inline T* filter_tap(Packed<T> w, int tap, int c0) {
  return &w.at(tap, c0);
}

// Where an item's filter gradient goes: added to dw by the only one, or to a slot, overwritten.
struct FilterPlace {
  Packed<float> dw;
  bool add;
};
inline FilterPlace filter_place(const DwconvBackward& args, int slot) {
  FilterPlace place{args.dw, args.cut.lines.items() == 1};
  if (!place.add) place.dw.data = args.dw_slots + slot * static_cast<ptrdiff_t>(args.dw.size());
  return place;
}

// Lines of one image in scratch memory, [pixels][kLane] each, the last `lines` of them, between
// `border` pixels of zeros.
class LineRing {
 public:
  LineRing() = default;
  LineRing(Scratch& memory, int lines, int pixels, int border)
      : lines_(lines),
        pitch_(ptrdiff_t{pixels + 2 * border} * kLane),
        first_(memory.take(lines * pitch_) + ptrdiff_t{border} * kLane) {
    for (int i = 0; i < lines; ++i) {
      clear(line(i) - border * kLane, border * kLane);
      clear(line(i) + pixels * kLane, border * kLane);
    }
  }
  // First pixel of line `line`, and how far it lies from that of line 0.
  float* line(int line) const { return first_ + offset(line); }
  ptrdiff_t offset(int line) const { return line % lines_ * pitch_; }

 private:
  int lines_ = 1;
  ptrdiff_t pitch_ = 0;
  float* first_ = nullptr;
};

// Stores `count` staged pixels, [count][kLane], past the caches.
inline void stream_line(const float* staged, const Pixels pixels, float* data) {
  for (int p = 0; p < pixels.count; ++p) {
    float* to = data + pixels.offset + p * pixels.stride;
    for_each_vector([&](int, int c) { stream(to + c, load(staged + p * kLane + c)); });
  }
}

// Stores outputs of a line and accumulates batch-norm sums (as StoreOutput does).
template <bool kStream>
struct StoreLine {
  float* y;  // first pixel, first channel
  ptrdiff_t stride;
  const float* pivot;  // [kLane]
  float* sums;         // [2][kLane]; null: none

  template <int Q>
  void store(int q0, int c, const V (&acc)[Q]) const {
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) put<kStream>(y + (q0 + q) * stride + c, acc[q]);
    if (sums == nullptr) return;
    const V shift = load(pivot + c);
    V first(0.0f), second(0.0f);
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
      const V value = acc[q] - shift;
      first = first + value;
      second = madd(value, value, second);
    }
    ops::MBCONV_LEVEL::store(sums + c, load(sums + c) + first);
    ops::MBCONV_LEVEL::store(sums + kLane + c, load(sums + kLane + c) + second);
  }
};

// Epilogue of an input gradient on its way from the registers: dz = (dx + skip) * slope, and the
// sums of dz and dz * xhat (see InputGrad). Pointers are at the first pixel and channel; `stride`
// leads to the next pixel of y and skip, `dz_stride` to that of dz, which may be staged.
template <bool kSkip, bool kStream>
struct StoreInputGrad {
  const float *y, *skip;
  ptrdiff_t stride, ahead, ahead_stride;  // see Pixels
  float* dz;
  ptrdiff_t dz_stride;
  const float* slopes;
  ptrdiff_t slopes_stride;
  const float *mean, *invstd;  // [kLane]
  float* sums;                 // [2][kLane]

  template <int Q>
  void store(int q0, int c, const V (&acc)[Q]) const {
    const V m = load(mean + c), scale = load(invstd + c);
    V sum(0.0f), sum_centred(0.0f);
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
      const ptrdiff_t at = (q0 + q) * stride + c;
      V grad = acc[q];
      if constexpr (kSkip) {  // x came finished from another tensor than y
        const ptrdiff_t next = ahead + (q0 + q) * ahead_stride + c;
        prefetch(y + next);
        prefetch(skip + next);
        grad = grad + load(skip + at);
      }
      grad = grad * load(slopes + (q0 + q) * slopes_stride + c);
      sum = sum + grad;
      sum_centred = madd(grad, load(y + at) - m, sum_centred);
      put<kStream>(dz + (q0 + q) * dz_stride + c, grad);
    }
    ops::MBCONV_LEVEL::store(sums + c, load(sums + c) + sum);
    ops::MBCONV_LEVEL::store(sums + kLane + c, madd(sum_centred, scale, load(sums + kLane + c)));
  }
};

// The activation of pixels of x and its derivative, channels [c0, c0 + width), to
// values[pixel][kPitch] and slopes[pixel][kPitch].
template <int kPitch>
inline void load_values_and_slopes(const Deferred& x, const Pixels pixels, int c0, int width,
                                   float* values, float* slopes) {
  const float* y = x.y.data + pixels.offset;
  const float *scales = at(x.scale, c0), *shifts = at(x.shift, c0);
  with_activation(pending_activation(x), [&](auto f) {
    for_each_run(pixels.count, width, [&](int w0, int w1, int c) {
      const Lane scale = load_lane_or(scales, c, 1.0f), shift = load_lane_or(shifts, c, 0.0f);
      for (int w = w0; w < w1; ++w) {
        const float* pixel = y + w * pixels.stride + c;
        float *value = values + w * kPitch + c, *to_slope = slopes + w * kPitch + c;
        prefetch(y + pixels.next(w) + c);
        for_each_vector([&](int v, int i) {
          V slope;
          const V z = madd(scale.v[v], load(pixel + i), shift.v[v]);
          store(value + i, decltype(f)::value(z, slope));
          store(to_slope + i, slope);
        });
      }
    });
  });
}

// Calls body(first, last) for pieces of [0, pixels) short enough for fp32 sums.
template <class Body>
inline void for_each_piece(int pixels, const Body& body) {
  for (int q = 0; q < pixels; q += kMaxTileRows) {
    body(q, q + kMaxTileRows < pixels ? q + kMaxTileRows : pixels);
  }
}

// Whether lines that are stored past the caches are so from the registers: where a vector is a line
// of memory, and they leave in the order of memory. Otherwise they are staged.
inline bool streams_directly(bool streams, bool in_order) {
  return kWidth == kLane && streams && in_order;
}

// Calls body(kernel size, stride, direct), all of them constants.
template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};
template <class Body>
inline void with_kind(int ksize, int stride, bool direct, const Body& body) {
  const auto with = [&](auto flag) {
    if (ksize == 3) {
      stride == 1 ? body(Constant<3>(), Constant<1>(), flag)
                  : body(Constant<3>(), Constant<2>(), flag);
    } else {
      stride == 1 ? body(Constant<5>(), Constant<1>(), flag)
                  : body(Constant<5>(), Constant<2>(), flag);
    }
  };
  if constexpr (kWidth < kLane) {
    with(Flag<false>());
  } else {
    with_flag(direct, with);
  }
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
