#include "ops/packed.h"

#include <xmmintrin.h>

#include <algorithm>

namespace mbconv::ops {
namespace {

// to[c][r] = from[r][c] of 4 x 4 numbers, past the caches: it is read much later. `to` and its rows
// are aligned to 16 bytes.
void transpose_4x4(const float* from, ptrdiff_t ld_from, float* to, ptrdiff_t ld_to) {
  __m128 r0 = _mm_loadu_ps(from), r1 = _mm_loadu_ps(from + ld_from);
  __m128 r2 = _mm_loadu_ps(from + 2 * ld_from), r3 = _mm_loadu_ps(from + 3 * ld_from);
  _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
  _mm_stream_ps(to, r0);
  _mm_stream_ps(to + ld_to, r1);
  _mm_stream_ps(to + 2 * ld_to, r2);
  _mm_stream_ps(to + 3 * ld_to, r3);
}

// The same of `rows` rows and `columns` columns.
void transpose_block(const float* from, ptrdiff_t ld_from, int rows, int columns, float* to,
                     ptrdiff_t ld_to) {
  const int whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int c = 0; c < whole_columns; c += 4) {
    for (int r = 0; r < whole_rows; r += 4)
      transpose_4x4(from + r * ld_from + c, ld_from, to + c * ld_to + r, ld_to);
  }
  for (int c = 0; c < columns; ++c) {
    for (int r = c < whole_columns ? whole_rows : 0; r < rows; ++r)
      to[c * ld_to + r] = from[r * ld_from + c];
  }
}

}  // namespace

// By blocks of 16 x 16, which are contiguous on either side.
void transpose(Packed<const float> w, Packed<float> out, int panel) {
  const int end = panel * kWideBlock + out.width(panel);
  for (int k0 = panel * kWideBlock; k0 < end; k0 += kLane) {
    const int rows = std::min(kLane, w.k - k0);
    for (int n0 = 0; n0 < out.k; n0 += kLane) {
      const int columns = std::min(kLane, out.k - n0);
      float* to = &out.at(n0, k0);
      transpose_block(&w.at(k0, n0), kLane, rows, columns, to, kLane);
      for (int n = 0; n < columns; ++n)
        std::fill(to + n * kLane + rows, to + (n + 1) * kLane, 0.0f);
    }
  }
  _mm_sfence();
}

}  // namespace mbconv::ops
