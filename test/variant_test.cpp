#include "ops/variant.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "lib/error.h"
#include "ops/conv1x1.h"
#include "ops/dropout.h"
#include "ops/dwconv.h"
#include "ops/loss.h"
#include "ops/packed.h"
#include "ops/project.h"
#include "ops/sgd.h"
#include "ops/stem.h"
#include "test/guard.h"
#include "test/inputs.h"
#include "test/levels.h"

using namespace mbconv;
using namespace mbconv::test;

namespace {

// Best first, one entry a level that is compiled in, ending in `generic`; pick() finds each.
template <class Function>
void check_table(std::span<const ops::Variant<Function>> table) {
  REQUIRE(table.size() == std::ranges::count_if(kIsaLevels, is_compiled));
  CHECK(table.back().isa == Isa::generic);
  CHECK(table.back().name == "generic");
  for (size_t i = 0; i < table.size(); ++i) {
    CHECK(table[i].name.substr(0, name(table[i].isa).size()) == name(table[i].isa));
    const bool picked = ops::pick(table, table[i].isa).function == table[i].function;
    CHECK(picked);
    if (i == 0) continue;
    CHECK(table[i - 1].isa > table[i].isa);
    const bool another = table[i - 1].function != table[i].function;
    CHECK(another);
  }
}

}  // namespace

TEST_CASE("variant: every table is sorted and ends in generic") {
  check_table(ops::conv1x1_forward_variants());
  check_table(ops::conv1x1_finish_input_variants());
  check_table(ops::conv1x1_backward_variants());
  check_table(ops::dropout_variants());
  check_table(ops::dwconv_forward_variants());
  check_table(ops::dwconv_backward_variants());
  check_table(ops::loss_variants());
  check_table(ops::pool_variants());
  check_table(ops::project_backward_variants());
  check_table(ops::project_finish_dy_variants());
  check_table(ops::project_gate_gradient_variants());
  check_table(ops::project_sum_images_variants());
  check_table(ops::sgd_variants());
  check_table(ops::squeeze_excite_reduce_variants());
  check_table(ops::squeeze_excite_gate_variants());
  check_table(ops::squeeze_excite_backward_input_variants());
  check_table(ops::squeeze_excite_backward_filter_variants());
  check_table(ops::stem_forward_variants());
  check_table(ops::stem_backward_variants());
}

TEST_CASE("levels: cases run, are filtered, skipped or demanded") {
  CHECK(decide(Isa::avx2, Isa::avx512, "", "") == Decision::run);
  CHECK(decide(Isa::avx512, Isa::avx2, "", "") == Decision::skip);
  CHECK(decide(Isa::avx512, Isa::avx2, "", "avx512") == Decision::fail);
  CHECK(decide(Isa::avx512, Isa::avx2, "", "avx2") == Decision::skip);
  CHECK(decide(Isa::avx2, Isa::generic, "", "avx512") == Decision::fail);
  CHECK(decide(Isa::avx2, Isa::avx512, "avx512", "") == Decision::filter);
  CHECK(decide(Isa::avx512, Isa::avx512, "avx512", "avx512") == Decision::run);
  CHECK(decide(Isa::avx512, Isa::avx2, "avx512", "") == Decision::skip);
  CHECK_THROWS_AS(decide(Isa::avx2, Isa::avx2, "avx3", ""), Error);
  CHECK_THROWS_AS(decide(Isa::avx2, Isa::avx2, "", "avx-512"), Error);
}

TEST_CASE("guard: a write outside of a buffer, or to an input, is noticed") {
#if !defined(__SANITIZE_ADDRESS__)  // which would stop at the write
  for (const ptrdiff_t at : {ptrdiff_t{-1}, ptrdiff_t{13}, ptrdiff_t{-60}, ptrdiff_t{70}}) {
    GuardedBytes bytes(13 * sizeof(float));
    CHECK(bytes.intact());
    reinterpret_cast<float*>(bytes.data())[at] = 1;
    CHECK_FALSE(bytes.intact());
  }
#endif
  Memory memory;
  CHECK(reinterpret_cast<uintptr_t>(memory.output<float>(3)) % 64 == 0);
  const float* out = memory.output<float>(2);
  const float* sum = memory.accumulated(std::vector<float>{4, 5});
  memory.reset(Fill::nan);
  CHECK(std::isnan(out[1]));
  CHECK(sum[1] == 5);
  memory.reset(Fill::huge);
  CHECK(out[1] > 1e30f);
}

TEST_CASE("packed: slabs of 16 columns, row by row, in panels of three, the last one narrower") {
  float data[3 * 112];
  const ops::Packed<float> w{data, 3, 97};
  CHECK(w.padded_n() == 112);
  CHECK(w.panels() == 3);
  CHECK(w.size() == 3 * 112);
  CHECK(w.width(0) == 48);
  CHECK(w.width(2) == 16);
  CHECK(&w.at(0, 0) == data);
  CHECK(&w.at(2, 15) == data + 2 * 16 + 15);
  CHECK(&w.at(0, 16) == data + w.slab_stride());
  CHECK(&w.at(2, 96) == data + 6 * 3 * 16 + 2 * 16);
  CHECK(w.panel(1) == &w.at(0, 48));
  CHECK(w.panel(1, 2) == &w.at(2, 48));
}

TEST_CASE("packed: panels hold a matrix, and transpose() its transpose with zero padding") {
  for (const auto& [k, n] : {std::pair{3, 5}, {48, 48}, {50, 97}, {16, 144}, {1, 1}, {27, 56}}) {
    CAPTURE(k);
    CAPTURE(n);
    Memory memory;
    Inputs in(memory, Values::reals, 37);
    const ops::Packed<const float> w = in.weights(k, n);
    const ops::Packed<float> wt{memory.output<float>(ops::Packed<float>{nullptr, n, k}.size()), n,
                                k};
    memory.reset(Fill::nan);
    for (int panel = 0; panel < wt.panels(); ++panel) ops::transpose(w, wt, panel);
    memory.check();
    bool same = true, zero = true;
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < k; ++c) same = same && wt.at(r, c) == w.at(c, r);
      for (int c = k; c < wt.padded_n(); ++c) zero = zero && wt.at(r, c) == 0;
    }
    CHECK(same);
    CHECK(zero);
  }
}
