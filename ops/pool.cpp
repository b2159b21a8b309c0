#include "ops/pool.h"

#include <algorithm>

#include "lib/compiled_levels.h"
#include "lib/error.h"

namespace mbconv::ops {

namespace generic {
PoolItem pool;
}
namespace avx2 {
PoolItem pool;
}
namespace avx512 {
PoolItem pool;
}

namespace {

constexpr auto kPool = compiled<Variant<PoolItem>>({
    {Isa::avx512, "avx512_c16", avx512::pool},
    {Isa::avx2, "avx2_c8", avx2::pool},
    {Isa::generic, "generic", generic::pool},
});

void join_image(const Pool& args, int n) {
  const Shape& shape = args.x.y.shape;
  const int channels = shape.padded_c(), planes = args.planes(), parts = args.cut.parts;
  double* sum = args.partial + ptrdiff_t{n} * parts * planes * channels;
  for (int part = 1; part < parts; ++part) {
    const double* other = sum + ptrdiff_t{part} * planes * channels;
    for (int i = 0; i < planes * channels; ++i) sum[i] += other[i];
  }
  float* mean = args.mean + ptrdiff_t{n} * channels;
  for (int c = 0; c < channels; ++c) {
    mean[c] = c < shape.c ? static_cast<float>(sum[c] / shape.pixels()) : 0.0f;
  }
  if (args.slopes == nullptr) return;
  // f'(0) of a padding lane may not be 0.
  double* slopes = args.slopes + ptrdiff_t{n} * 2 * channels;
  for (int i = 0; i < 2 * channels; ++i)
    slopes[i] = i % channels < shape.c ? sum[channels + i] : 0.0;
}

}  // namespace

std::span<const Variant<PoolItem>> pool_variants() {
  return kPool;
}

RowCut pool_cut(const Shape& x) {
  const int units = ceil_div(x.padded_c(), kWideBlock);
  const int64_t items = wanted_items(x.rows() * x.c * kLoadMacs);
  return cut_rows(x.n, x.pixels(), std::max<int64_t>(1, items / units), kTileRows);
}

void pool_forward(const Context& context, const Pool& args) {
  require(args.x.scale || args.slopes == nullptr,
          "pool: x with slopes must come from a batch norm");
  const auto item = pick(pool_variants(), context.isa).function;
  const int units = args.units();
  context.workers->run_staged(
      args.cut.groups, args.cut.parts * units,
      [&](int group, int i, int worker) {
        item(args, group * args.cut.parts + i / units, i % units, context.worker_scratch(worker));
      },
      [](int, int) {}, args.cut.images,
      [&](int group, int i, int) {
        const int n = group * args.cut.images + i;
        if (n < args.x.y.shape.n) join_image(args, n);
      });
}

void pool_join(const Pool& args, int group) {
  const RowCut::Range range = args.cut.range(group, 0, args.x.y.shape.n, 1);
  for (int n = range.first_image; n < range.first_image + range.images; ++n) join_image(args, n);
}

}  // namespace mbconv::ops
