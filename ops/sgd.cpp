#include "ops/sgd.h"

#include <algorithm>

#include "lib/compiled_levels.h"

namespace mbconv::ops {

namespace generic {
SgdItem sgd;
}
namespace avx2 {
SgdItem sgd;
}
namespace avx512 {
SgdItem sgd;
}

namespace {

constexpr auto kSgd = compiled<Variant<SgdItem>>({
    {Isa::avx512, "avx512_c16", avx512::sgd},
    {Isa::avx2, "avx2_c8", avx2::sgd},
    {Isa::generic, "generic", generic::sgd},
});

}  // namespace

std::span<const Variant<SgdItem>> sgd_variants() {
  return kSgd;
}

void append_segments(size_t begin, size_t size, bool decayed, std::vector<SgdSegment>& segments) {
  for (size_t done = 0; done < size; done += kSgdPiece) {
    segments.push_back({begin + done, std::min(kSgdPiece, size - done), decayed});
  }
}

double sgd_update(const Context& context, const Sgd& args) {
  const auto item = pick(sgd_variants(), context.isa).function;
  const int segments = static_cast<int>(args.segments.size());
  context.workers->run(segments, [&](int i, int) {
    item(args, args.segments[static_cast<size_t>(i)], args.squares + i);
  });
  double sum = 0;
  for (int i = 0; i < segments; ++i) sum += args.squares[i];
  return sum;
}

double sum_of_squares(const float* w, std::span<const SgdSegment> segments) {
  double sum = 0;
  for (const SgdSegment& s : segments) {
    if (!s.decayed) continue;
    for (size_t i = s.begin; i < s.begin + s.size; ++i) sum += double{w[i]} * w[i];
  }
  return sum;
}

}  // namespace mbconv::ops
