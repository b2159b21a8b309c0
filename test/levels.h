#pragma once

#include <doctest/doctest.h>

#include <span>
#include <string>
#include <string_view>

#include "lib/isa.h"
#include "ops/variant.h"

namespace mbconv::test {

// What to do with a case of one ISA level:
//   run      run it
//   filter   not asked for: MBCONV_TEST_LEVEL names another level
//   skip     this CPU lacks the level, or it is not compiled in; counted and reported in the end
//   fail     the same, but MBCONV_REQUIRE_ISA demands that it runs
enum class Decision { run, filter, skip, fail };

// `only` and `required` are the two variables' values; empty: not set. A required level demands
// those below it as well. Throws Error for an unknown name.
Decision decide(Isa level, Isa host, std::string_view only, std::string_view required);

// The same for this machine and environment; counts a skip under the variant's name.
Decision decide(Isa level, std::string_view variant);

// "not run here: 37 cases of level avx512 (this CPU lacks it): avx512_9x48"; empty without skips.
// Of levels that are not compiled in, kernels have no variants that could be counted.
std::string skipped_summary();

// MBCONV_TEST_SMALL: only the smallest shapes, for emulated CPUs.
bool small_run();

// Calls body(isa) for each variant of a table that is to run here, best first.
template <class Function, class Body>
void for_each_level(std::span<const ops::Variant<Function>> variants, const Body& body) {
  for (const auto& variant : variants) {
    CAPTURE(std::string(variant.name));
    switch (decide(variant.isa, variant.name)) {
      case Decision::run:
        body(variant.isa);
        break;
      case Decision::fail:
        FAIL_CHECK("variant " << std::string(variant.name) << " cannot run: this CPU lacks level "
                              << std::string(name(variant.isa)));
        break;
      default:
        break;
    }
  }
}

}  // namespace mbconv::test
