// One segment of the SGD update at one ISA level: see ops/simd.h. Memory-bound: 3 loads and 3
// stores for 4 operations.

#include "ops/sgd.h"

#include "ops/epilogue.h"

namespace mbconv::ops::MBCONV_LEVEL {

SgdItem sgd;

void sgd(const Sgd& args, const SgdSegment& s, double* sum_of_squares) {
  const V decay(s.decayed ? 2.0f * args.decay : 0.0f), lr(args.lr), momentum(args.momentum);
  double squares = 0;
  const size_t end = s.begin + s.size;
  for (size_t i = s.begin; i < end;) {
    // fp32 sums of at most kMaxTileRows terms a lane.
    V sum(0.0f);
    for (int r = 0; r < kMaxTileRows && i < end; ++r, i += kWidth) {
      const V w = load(args.w + i);
      sum = madd(w, w, sum);
      const V v = nmadd(lr, madd(decay, w, load(args.g + i)), momentum * load(args.v + i));
      store(args.v + i, v);
      store(args.w + i, w + v);
      store(args.g + i, V(0.0f));
    }
    float lanes[kWidth];
    store(lanes, sum);
    for (const float lane : lanes) squares += lane;
  }
  *sum_of_squares = s.decayed ? squares : 0.0;
}

}  // namespace mbconv::ops::MBCONV_LEVEL
