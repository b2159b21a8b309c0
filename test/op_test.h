#pragma once

#include <doctest/doctest.h>

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

// One run with all memory prefilled. Scratch is exactly as large as the op says.
template <class Fixture>
void run_fixture(Fixture& fixture, Isa isa, int threads, Fill fill) {
  const size_t floats = (fixture.scratch() + 15) / 16 * 16;
  GuardedBytes scratch(floats * sizeof(float) * static_cast<size_t>(threads));
  scratch.fill(fill);
  fixture.memory.reset(fill);
  fixture.run({isa, &workers(threads), reinterpret_cast<float*>(scratch.data()), floats});
  CHECK_MESSAGE(scratch.intact(), "the scratch memory was overrun");
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

template <class Function, class Fixture>
void check_thread_count(std::span<const ops::Variant<Function>> variants, Fixture& fixture) {
  for_each_level(variants, [&](Isa isa) {
    run_fixture(fixture, isa, 1, Fill::nan);
    const std::vector<std::byte> one = fixture.memory.results();
    for (const int threads : {3, 16}) {
      run_fixture(fixture, isa, threads, Fill::huge);
      CHECK_MESSAGE(fixture.memory.results() == one,
                    threads << " threads give other bits than one");
    }
  });
}

// Fixtures made of integers: every level must give what exact arithmetic gives.
template <class Function, class Fixture>
void check_exact(std::span<const ops::Variant<Function>> variants, Fixture& fixture) {
  check_matches_reference(variants, fixture, 0);
}

}  // namespace mbconv::test
