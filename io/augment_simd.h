#pragma once

// The vector type of one ISA level for pixels: 4, 8 or 16 floats in lanes of 4, with the operations
// of SSE on each lane. For kernels compiled once per level (MBCONV_LEVEL, -march).

#include <immintrin.h>

namespace mbconv::io::MBCONV_LEVEL {
namespace {

// One pixel and the first channel of the next.
using Pixel = __m128;

inline Pixel load(const float* from) {
  return _mm_loadu_ps(from);
}
inline void store(float* to, Pixel pixel) {
  _mm_storeu_ps(to, pixel);
}

#if defined(__AVX512F__)

using V = __m512;
constexpr int kWidth = 16;

inline V broadcast(float value) {
  return _mm512_set1_ps(value);
}
// If the arguments are equal or one is NaN, the result is `b`.
inline V largest(V a, V b) {
  return _mm512_max_ps(a, b);
}
inline V smallest(V a, V b) {
  return _mm512_min_ps(a, b);
}
inline V absolute(V a) {
  return _mm512_abs_ps(a);
}
// a == b ? yes : no
inline V if_equal(V a, V b, V yes, V no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), no, yes);
}
// {a[i], a[j], b[k], b[l]} in each lane.
template <int i, int j, int k, int l>
inline V shuffle(V a, V b) {
  return _mm512_shuffle_ps(a, b, _MM_SHUFFLE(l, k, j, i));
}
// {a[0], b[0], a[1], b[1]} and {a[2], b[2], a[3], b[3]} in each lane.
inline V unpack_low(V a, V b) {
  return _mm512_unpacklo_ps(a, b);
}
inline V unpack_high(V a, V b) {
  return _mm512_unpackhi_ps(a, b);
}
// The pixels at places[0], places[4], ... one a lane; back to from[0], from[stride], ...
inline V load_lanes(const float* from, const int* places) {
  V v = _mm512_castps128_ps512(load(from + places[0]));
  v = _mm512_insertf32x4(v, load(from + places[4]), 1);
  v = _mm512_insertf32x4(v, load(from + places[8]), 2);
  return _mm512_insertf32x4(v, load(from + places[12]), 3);
}
inline void store_lanes(float* to, int stride, V v) {
  store(to, _mm512_castps512_ps128(v));
  store(to + stride, _mm512_extractf32x4_ps(v, 1));
  store(to + 2 * stride, _mm512_extractf32x4_ps(v, 2));
  store(to + 3 * stride, _mm512_extractf32x4_ps(v, 3));
}

#elif defined(__AVX2__)

using V = __m256;
constexpr int kWidth = 8;

inline V broadcast(float value) {
  return _mm256_set1_ps(value);
}
inline V largest(V a, V b) {
  return _mm256_max_ps(a, b);
}
inline V smallest(V a, V b) {
  return _mm256_min_ps(a, b);
}
inline V absolute(V a) {
  return _mm256_andnot_ps(broadcast(-0.0f), a);
}
inline V if_equal(V a, V b, V yes, V no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}
template <int i, int j, int k, int l>
inline V shuffle(V a, V b) {
  return _mm256_shuffle_ps(a, b, _MM_SHUFFLE(l, k, j, i));
}
inline V unpack_low(V a, V b) {
  return _mm256_unpacklo_ps(a, b);
}
inline V unpack_high(V a, V b) {
  return _mm256_unpackhi_ps(a, b);
}
inline V load_lanes(const float* from, const int* places) {
  const V v = _mm256_castps128_ps256(load(from + places[0]));
  return _mm256_insertf128_ps(v, load(from + places[4]), 1);
}
inline void store_lanes(float* to, int stride, V v) {
  store(to, _mm256_castps256_ps128(v));
  store(to + stride, _mm256_extractf128_ps(v, 1));
}

#else

using V = __m128;
constexpr int kWidth = 4;

inline V broadcast(float value) {
  return _mm_set1_ps(value);
}
inline V largest(V a, V b) {
  return _mm_max_ps(a, b);
}
inline V smallest(V a, V b) {
  return _mm_min_ps(a, b);
}
inline V absolute(V a) {
  return _mm_andnot_ps(broadcast(-0.0f), a);
}
inline V if_equal(V a, V b, V yes, V no) {
  const V equal = _mm_cmpeq_ps(a, b);
  return _mm_or_ps(_mm_and_ps(equal, yes), _mm_andnot_ps(equal, no));
}
template <int i, int j, int k, int l>
inline V shuffle(V a, V b) {
  return _mm_shuffle_ps(a, b, _MM_SHUFFLE(l, k, j, i));
}
inline V unpack_low(V a, V b) {
  return _mm_unpacklo_ps(a, b);
}
inline V unpack_high(V a, V b) {
  return _mm_unpackhi_ps(a, b);
}
inline V load_lanes(const float* from, const int* places) {
  return load(from + places[0]);
}
inline void store_lanes(float* to, int, V v) {
  store(to, v);
}

#endif

}  // namespace
}  // namespace mbconv::io::MBCONV_LEVEL
