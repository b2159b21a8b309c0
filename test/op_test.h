#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "ops/context.h"
#include "test/guard.h"
#include "test/levels.h"

namespace mbconv::test {

// The six titles of every op (style D19) for a fixture: one call of an op with its memory, oracle
// and data drawn once. A fixture has
//   Memory memory;
//   size_t scratch() const;             floats a worker needs
//   void run(const ops::Context&);
//   void check(double c);               compares all results with the oracle, c as in compare()

// One at a time: oneTBB grants all of them together no more threads than the smallest one beyond
// the number of CPUs asks for.
inline Workers& workers(int threads) {
  static std::unique_ptr<Workers> current;
  if (current == nullptr || current->threads() != threads) {
    current.reset();
    current = std::make_unique<Workers>(threads);
  }
  return *current;
}

// One run with all memory prefilled. Scratch is exactly as large as the op says. Returns how many
// workers wrote to theirs.
template <class Fixture>
int run_fixture(Fixture& fixture, Isa isa, int threads, Fill fill) {
  const size_t floats = (fixture.scratch() + 15) / 16 * 16, bytes = floats * sizeof(float);
  GuardedBytes scratch(bytes * static_cast<size_t>(threads));
  scratch.fill(fill);
  fixture.memory.reset(fill);
  fixture.run({isa, &workers(threads), reinterpret_cast<float*>(scratch.data()), floats});
  CHECK_MESSAGE(scratch.intact(), "the scratch memory was overrun");
  int used = 0;
  const auto untouched = [&](std::byte b) { return b == static_cast<std::byte>(fill); };
  for (int t = 0; t < threads; ++t) {
    const std::byte* begin = scratch.data() + static_cast<size_t>(t) * bytes;
    if (!std::all_of(begin, begin + bytes, untouched)) ++used;
  }
  return used;
}

template <class Function, class Fixture>
void check_matches_reference(std::span<const ops::Variant<Function>> variants, Fixture& fixture,
                             double c) {
  for_each_level(variants, [&](Isa isa) {
    run_fixture(fixture, isa, 1, Fill::nan);
    fixture.check(c);
  });
}

// Same results whatever was in the memory, and nothing else written.
template <class Function, class Fixture>
void check_writes_only_its_output(std::span<const ops::Variant<Function>> variants,
                                  Fixture& fixture) {
  for_each_level(variants, [&](Isa isa) {
    run_fixture(fixture, isa, 1, Fill::nan);
    fixture.memory.check();
    const std::vector<std::byte> first = fixture.memory.results();
    run_fixture(fixture, isa, 1, Fill::huge);
    fixture.memory.check();
    CHECK_MESSAGE(fixture.memory.results() == first, "results depend on what was in the memory");
  });
}

// Equal bits for 1, 3 and 16 threads. Items are short and workers wake late: where scratch memory
// shows who worked, runs are repeated until several did, without insisting on it; a few times
// anyway.
template <class Function, class Fixture>
void check_thread_count(std::span<const ops::Variant<Function>> variants, Fixture& fixture) {
  const int least = small_run() ? 1 : 4, most = small_run() ? 1 : 20;
  for_each_level(variants, [&](Isa isa) {
    run_fixture(fixture, isa, 1, Fill::nan);
    const std::vector<std::byte> one = fixture.memory.results();
    for (const int threads : {3, 16}) {
      bool same = true, together = fixture.scratch() == 0;
      for (int i = 0; same && i < (together ? least : most); ++i) {
        together = run_fixture(fixture, isa, threads, Fill::huge) > 1 || together;
        same = fixture.memory.results() == one;
      }
      CHECK_MESSAGE(same, threads, " threads give other bits than one");
    }
  });
}

// Fixtures made of integers: every level must give what exact arithmetic gives.
template <class Function, class Fixture>
void check_exact(std::span<const ops::Variant<Function>> variants, Fixture& fixture) {
  check_matches_reference(variants, fixture, 0);
}

}  // namespace mbconv::test
