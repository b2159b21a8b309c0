// Tile products at one ISA level: see ops/simd.h.

#include "ops/gemm.h"

#include "ops/cut.h"

namespace mbconv::ops::MBCONV_LEVEL {

void gemm_product(int depth, const float* a, Packed<const float> w, float* out) {
  const int lda = round_up(depth, kLane), ld = w.padded_n();
  for (int k0 = 0; k0 < w.k; k0 += depth) {
    const int now = w.k - k0 < depth ? w.k - k0 : depth;
    const Tile init{k0 > 0 ? out : nullptr, ld};
    for (int p = 0; p < w.panels(); ++p) {
      gemm_panel(kTileRows, now, {a, lda}, w, k0, p, init, StoreTile{out, ld});
    }
  }
}

void gemm_filter(int rows, const float* a, const float* b, Packed<float> dw) {
  const int lda = round_up(rows, kLane);
  for (int k0 = 0; k0 < dw.k; k0 += rows) {
    const int now = dw.k - k0 < rows ? dw.k - k0 : rows;
    for (int p = 0; p < dw.panels(); ++p) {
      gemm_tn(kTileRows, now, dw.used(p), Tile{a, lda}, WideTile{b}, panel_slabs(dw, p, k0), true);
    }
  }
}

}  // namespace mbconv::ops::MBCONV_LEVEL
