#pragma once

// The vector type of one ISA level and what kernels need of it. Kernel sources are compiled once
// per level, with MBCONV_LEVEL set to the level's name and with its -march, into the namespace
// ops::MBCONV_LEVEL: no symbol of one level can be linked into another. This is the only file that
// includes xsimd. (xsimd 8.1: its fma does not fuse for AVX-512, and it has no streaming stores.)

#include <bit>
#include <cstdint>

#include "lib/tensor.h"

#if defined(__AVX2__)
#include <immintrin.h>

#include <xsimd/xsimd.hpp>
#else
#include <cmath>
#endif

namespace mbconv::ops::MBCONV_LEVEL {
namespace {

#if defined(__AVX2__)

// The roots 2^(i / kSteps) of power_of_two; with kShift each less what the low bits of an integer,
// shifted by it to the exponent, add there.
template <int kSteps, int kShift = 0>
struct PowerTable {
  alignas(64) uint32_t bits[kSteps] = {};
  constexpr PowerTable() {
    constexpr float kRoots[32] = {
        1.00000000f, 1.02189715f, 1.04427378f, 1.06714040f, 1.09050773f, 1.11438674f, 1.13878863f,
        1.16372486f, 1.18920712f, 1.21524736f, 1.24185781f, 1.26905096f, 1.29683955f, 1.32523664f,
        1.35425555f, 1.38390988f, 1.41421356f, 1.44518081f, 1.47682615f, 1.50916443f, 1.54221083f,
        1.57598085f, 1.61049033f, 1.64575548f, 1.68179283f, 1.71861930f, 1.75625216f, 1.79470908f,
        1.83400809f, 1.87416763f, 1.91520656f, 1.95714412f};
    for (uint32_t i = 0; i < kSteps; ++i)
      bits[i] = std::bit_cast<uint32_t>(kRoots[i * 32 / kSteps]) - (kShift > 0 ? i << kShift : 0);
  }
};

#endif

#if defined(__AVX512F__)

using V = xsimd::batch<float, xsimd::avx512bw>;
// Rows of the widest register tile of matrix products: 9 x 48 = 27 accumulators, 3 registers of B,
// 1 broadcast: 31 of 32. (In L1 of a Granite Rapids 214 GFLOP/s, 8 x 48 204, registers alone 229.)
constexpr int kMR = 9;

// a * b + c, rounded once.
inline V madd(V a, V b, V c) {
  return _mm512_fmadd_ps(a, b, c);
}
// c - a * b, rounded once.
inline V nmadd(V a, V b, V c) {
  return _mm512_fnmadd_ps(a, b, c);
}
// -a * b - c, rounded once.
inline V nmsub(V a, V b, V c) {
  return _mm512_fnmsub_ps(a, b, c);
}
inline void stream(float* p, V v) {
  _mm512_stream_ps(p, v);
}

// Half a vector, for the last columns of a product that fill no whole one: half the work on CPUs
// that split wide vectors. (No xsimd batch: those of AVX2 belong to that level.)
struct HalfV {
  __m256 lanes;
  HalfV() = default;
  HalfV(__m256 v) : lanes(v) {}
};
inline HalfV load_half(const float* p) {
  return _mm256_loadu_ps(p);
}
// The lower half of a * b + c.
inline HalfV madd_half(V a, HalfV b, HalfV c) {
  return _mm256_fmadd_ps(_mm512_castps512_ps256(a), b.lanes, c.lanes);
}
// The other half is zero.
inline V widen(HalfV v) {
  return _mm512_zextps256_ps512(v.lanes);
}
// Powers of two are put together of a root, 2 to the fraction of n, and a scaling by the whole of
// n, the next integer below, where n is a multiple of 1 / kPowerSteps. The last bits of biased = n
// + 1.5 * 2^23 / kPowerSteps choose the root.
constexpr int kPowerSteps = 32;
inline V power_of_two(V biased) {
  static constexpr PowerTable<kPowerSteps> kTable;
  return _mm512_castsi512_ps(_mm512_permutex2var_epi32(_mm512_load_si512(kTable.bits),
                                                       _mm512_castps_si512(biased),
                                                       _mm512_load_si512(kTable.bits + 16)));
}
inline V scale_by_power(V v, V n) {
  return _mm512_scalef_ps(v, n);
}
// The lesser of |a| and |b| with the sign of a; of a NaN and a number the number's magnitude.
inline V lesser_magnitude(V a, V b) {
  return _mm512_range_ps(a, b, 0b0010);
}

#elif defined(__AVX2__)

using V = xsimd::batch<float, xsimd::fma3<xsimd::avx2> >;
// 6 x 16 = 12 accumulators, 2 registers of B, 1 broadcast: 15 of 16.
constexpr int kMR = 6;
// A vector is as short as any piece of columns: there are no halves.
struct HalfV {};

inline V madd(V a, V b, V c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline V nmadd(V a, V b, V c) {
  return _mm256_fnmadd_ps(a, b, c);
}
inline V nmsub(V a, V b, V c) {
  return _mm256_fnmsub_ps(a, b, c);
}
inline void stream(float* p, V v) {
  _mm256_stream_ps(p, v);
}
// 2^(n / kPowerSteps), where the integer n lies in the low bits of biased = n + 1.5 * 2^23: its
// lowest bits choose a root of two, and all of n is shifted to the exponent.
constexpr int kPowerSteps = 8;
inline V power_of_two(V biased) {
  constexpr int kShift = 23 - std::countr_zero(unsigned{kPowerSteps});
  static constexpr PowerTable<kPowerSteps, kShift> kTable;
  const __m256i n = _mm256_castps_si256(biased);
  const __m256i root = _mm256_permutevar8x32_epi32(
      _mm256_load_si256(reinterpret_cast<const __m256i*>(kTable.bits)), n);
  return _mm256_castsi256_ps(_mm256_add_epi32(root, _mm256_slli_epi32(n, kShift)));
}

#else

using V = float;
constexpr int kMR = 1;

inline V madd(V a, V b, V c) {
  return a * b + c;
}
inline V nmadd(V a, V b, V c) {
  return c - a * b;
}
inline void stream(float* p, V v) {
  *p = v;
}

#endif

#if defined(__AVX2__)

constexpr int kWidth = static_cast<int>(V::size);

// `p` may have any alignment of a float: tiles begin at odd origins.
inline V load(const float* p) {
  return V::load_unaligned(p);
}
inline void store(float* p, V v) {
  v.store_unaligned(p);
}
// If one argument is NaN the result is `b`: keep the value under test second.
inline V max(V a, V b) {
  return xsimd::max(a, b);
}
inline V min(V a, V b) {
  return xsimd::min(a, b);
}
// x > 0 ? a : b, lane by lane.
inline V if_positive(V x, V a, V b) {
  return xsimd::select(x > V(0.0f), a, b);
}

#else

constexpr int kWidth = 1;

inline V load(const float* p) {
  return *p;
}
inline void store(float* p, V v) {
  *p = v;
}
inline V max(V a, V b) {
  return a > b ? a : b;
}
inline V min(V a, V b) {
  return a < b ? a : b;
}
inline V if_positive(V x, V a, V b) {
  return x > 0.0f ? a : b;
}

#endif

// Vectors of a lane.
constexpr int kLaneVectors = kLane / kWidth;

// Calls body(Flag<true>()) or body(Flag<false>()): one branch outside of the loops.
template <bool kValue>
struct Flag {
  static constexpr bool value = kValue;
};
template <class Body>
inline void with_flag(bool flag, const Body& body) {
  return flag ? body(Flag<true>()) : body(Flag<false>());
}

// Stores past the caches with kStream; `p` is then aligned to the vector.
template <bool kStream>
inline void put(float* p, V v) {
  if constexpr (kStream) {
    stream(p, v);
  } else {
    store(p, v);
  }
}

// Asks for a line of memory that will be read soon; any address will do.
inline void prefetch([[maybe_unused]] const float* p) {
#if defined(__AVX2__)
  _mm_prefetch(p, _MM_HINT_T1);
#endif
}

// Streamed stores become visible to other threads before what follows.
inline void fence_streams() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace mbconv::ops::MBCONV_LEVEL
