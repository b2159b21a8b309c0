#include "ops/dropout.h"

#include <algorithm>

#include "lib/compiled_levels.h"
#include "lib/rng.h"
#include "lib/tensor.h"

namespace mbconv::ops {

namespace generic {
DropoutItem dropout;
}
namespace avx2 {
DropoutItem dropout;
}
namespace avx512 {
DropoutItem dropout;
}

namespace {

constexpr auto kDropout = compiled<Variant<DropoutItem>>({
    {Isa::avx512, "avx512_c16", avx512::dropout},
    {Isa::avx2, "avx2_c8", avx2::dropout},
    {Isa::generic, "generic", generic::dropout},
});

constexpr int kPiece = 4096;

}  // namespace

std::span<const Variant<DropoutItem>> dropout_variants() {
  return kDropout;
}

void draw_dropout_mask(Workers& workers, float rate, uint64_t seed, int64_t step, int n, int c,
                       float* mask) {
  const int padded = round_up(c, kLane);
  const float kept = 1.0f / (1.0f - rate);
  workers.run(n, [&](int image, int) {
    Rng rng(seed, 0, static_cast<uint64_t>(step * n + image), Purpose::dropout);
    float* row = mask + ptrdiff_t{image} * padded;
    for (int i = 0; i < c; ++i) row[i] = rng.uniform() < rate ? 0.0f : kept;
    std::fill(row + c, row + padded, 0.0f);
  });
}

void apply_dropout(const Context& context, const float* x, const float* mask, float scale,
                   int count, float* y) {
  const auto item = pick(dropout_variants(), context.isa).function;
  context.workers->run(ceil_div(count, kPiece), [&](int piece, int) {
    const int begin = piece * kPiece;
    item(x + begin, mask + begin, scale, std::min(kPiece, count - begin), y + begin);
  });
}

}  // namespace mbconv::ops
