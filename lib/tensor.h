#pragma once

#include <cstddef>
#include <cstdint>

// Small functions that both ordinary code and the kernels of an ISA level call: always inlined, so
// that no copy compiled with a level's instructions is ever linked into code for any CPU.
#define MBCONV_INLINE [[gnu::always_inline]] inline

namespace mbconv {

// Channel pitches are multiples of this: one AVX-512 register, two AVX2 registers of floats.
inline constexpr int kLane = 16;
// Channels of a block of a wide tensor: three AVX-512 registers, six AVX2 registers. Every expanded
// width at expansion 6 is a multiple of it, so kernels on wide tensors have no channel tails.
inline constexpr int kWideBlock = 48;

MBCONV_INLINE constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
MBCONV_INLINE constexpr int ceil_div(int value, int divisor) {
  return (value + divisor - 1) / divisor;
}

// Shape and memory layout of activations: [N, H, W, C] in channel blocks,
//   element (n, p, c), p = h * W + w, at  (c / block) * block_stride() + n * image_stride()
//                                         + p * block + c % block.
// All rows (n, p) of a block are evenly spaced: a pass over a block reads one stream however small
// the images are.
// Narrow tensors are NHWC: one block of C rounded up to kLane. Wide tensors have blocks of
// kWideBlock. Lanes past C are padding: always written as zero by who produces the tensor, and
// never part of a sum, a statistic or a file.
struct Shape {
  int n = 0, h = 0, w = 0, c = 0;
  int block = kLane;

  MBCONV_INLINE static constexpr Shape nhwc(int n, int h, int w, int c) {
    return {n, h, w, c, round_up(c, kLane)};
  }
  // Blocks of kWideBlock where the channels fill them; NHWC otherwise.
  MBCONV_INLINE static constexpr Shape wide(int n, int h, int w, int c) {
    return {n, h, w, c, c % kWideBlock == 0 ? kWideBlock : round_up(c, kLane)};
  }

  MBCONV_INLINE constexpr int pixels() const { return h * w; }
  MBCONV_INLINE constexpr int blocks() const { return ceil_div(c, block); }
  MBCONV_INLINE constexpr int padded_c() const { return blocks() * block; }
  MBCONV_INLINE constexpr int64_t rows() const { return int64_t{n} * pixels(); }
  MBCONV_INLINE constexpr ptrdiff_t image_stride() const { return ptrdiff_t{pixels()} * block; }
  MBCONV_INLINE constexpr ptrdiff_t block_stride() const { return n * image_stride(); }
  // Elements, padding included.
  MBCONV_INLINE constexpr size_t size() const {
    return static_cast<size_t>(blocks() * block_stride());
  }

  friend constexpr bool operator==(const Shape&, const Shape&) = default;
};

// A non-owning view of activations, 64-byte aligned. Empty (false) without data.
template <class T>
struct View {
  T* data = nullptr;
  Shape shape = {};

  MBCONV_INLINE explicit operator bool() const { return data != nullptr; }
  MBCONV_INLINE operator View<const T>() const { return {data, shape}; }
  // Pixel p (row-major over H and W) of block b of image n: `shape.block` elements.
  MBCONV_INLINE T* pixel(int n, int b, int p) const {
    return data + n * shape.image_stride() + b * shape.block_stride() + ptrdiff_t{p} * shape.block;
  }
};

}  // namespace mbconv
