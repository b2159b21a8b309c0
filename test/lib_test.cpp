#include <doctest/doctest.h>
#include <sched.h>
#include <xmmintrin.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "lib/arena.h"
#include "lib/cpus.h"
#include "lib/error.h"
#include "lib/isa.h"
#include "lib/parallel.h"
#include "lib/rng.h"
#include "lib/tensor.h"

using namespace mbconv;

TEST_CASE("error: parts are joined as a stream would") {
  const std::string text = "text";
  const int64_t lowest = std::numeric_limits<int64_t>::min();
  const uint64_t highest = std::numeric_limits<uint64_t>::max();
  std::ostringstream out;
  out << text << std::string_view(" view") << ' ' << -1 << 2u << ' ' << lowest << ' ' << highest
      << true << ' ' << 0.1f << ' ' << 1.0 / 3 << ' ' << 1e300 << ' ' << -0.0 << ' ' << INFINITY;
  const Error error(text, std::string_view(" view"), ' ', -1, 2u, ' ', lowest, ' ', highest, true,
                    ' ', 0.1f, ' ', 1.0 / 3, ' ', 1e300, ' ', -0.0, ' ', INFINITY);
  CHECK(std::string(error.what()) == out.str());
}

TEST_CASE("isa: an unknown level is refused with the list of valid names") {
  CHECK_THROWS_WITH_AS(select_isa("sse9"),
                       ("unknown ISA level 'sse9'; available: " + available_isas()).c_str(), Error);
}

TEST_CASE("isa: the forced name wins over the environment, the environment over the host") {
  setenv("MBCONV_ISA", "generic", 1);
  CHECK(select_isa() == Isa::generic);
  CHECK(select_isa(name(host_isa())) == host_isa());
  unsetenv("MBCONV_ISA");
  CHECK(select_isa() == host_isa());
}

TEST_CASE("isa: a level above the host's is refused") {
  if (host_isa() == Isa::avx512) return;  // nothing lies above
  CHECK_THROWS_AS(select_isa("avx512"), Error);
}

TEST_CASE("isa: a level that is not compiled in is refused and not offered") {
  CHECK(is_compiled(Isa::generic));
  CHECK(is_compiled(host_isa()));
  for (const Isa isa : kIsaLevels) {
    if (is_compiled(isa)) continue;
    CAPTURE(std::string(name(isa)));
    CHECK(available_isas().find(name(isa)) == std::string::npos);
    CHECK_THROWS_AS(select_isa(name(isa)), Error);
    if (isa > host_isa()) continue;
    CHECK_THROWS_WITH_AS(select_isa(name(isa)),
                         ("ISA level '" + std::string(name(isa)) +
                          "' is not compiled into this program; available: " + available_isas())
                             .c_str(),
                         Error);
  }
}

TEST_CASE("shape: NHWC pads channels to a lane, wide tensors come in blocks of 48") {
  const Shape narrow = Shape::nhwc(2, 3, 5, 24);
  CHECK(narrow.block == 32);
  CHECK(narrow.image_stride() == 3 * 5 * 32);
  const Shape wide = Shape::wide(2, 3, 5, 96);
  CHECK(wide.blocks() == 2);
  CHECK(wide.size() == 2u * 2 * 15 * 48);
  CHECK(wide.image_stride() == 15 * 48);
  CHECK(wide.block_stride() == 2 * 15 * 48);
  CHECK(Shape::wide(2, 3, 5, 32) == Shape::nhwc(2, 3, 5, 32));
}

TEST_CASE("arena: buffers that live together never overlap, others share") {
  Arena arena;
  struct Life {
    Arena::Id id;
    size_t count;
    int first, last;
  };
  std::vector<Life> lives;
  Rng rng(1, 0, 0, Purpose::synthetic);
  size_t sum = 0;
  for (int i = 0; i < 40; ++i) {
    const int first = static_cast<int>(rng.below(20));
    const int last = first + static_cast<int>(rng.below(5));
    const size_t count = 1 + rng.below(1000);
    lives.push_back(
        {arena.add<float>("b" + std::to_string(i), count, first, last), count, first, last});
    sum += count * sizeof(float);
  }
  arena.plan();
  arena.allocate();
  CHECK(arena.bytes() < sum);
  for (int pass = 0; pass < 25; ++pass) CHECK(arena.bytes_alive(pass) <= arena.bytes());
  for (const Life& a : lives) {
    CHECK(reinterpret_cast<uintptr_t>(arena.data<float>(a.id)) % 64 == 0);
    for (const Life& b : lives) {
      if (a.id == b.id || a.first > b.last || b.first > a.last) continue;
      const float* pa = arena.data<float>(a.id);
      const float* pb = arena.data<float>(b.id);
      CHECK((pa + a.count <= pb || pb + b.count <= pa));
    }
  }
}

TEST_CASE("workers: each item runs once, workers are numbered below the thread count") {
  for (const int threads : {1, 3, 8}) {
    Workers workers(threads);
    std::vector<std::atomic<int>> seen(1000);
    std::atomic<bool> numbered{true};
    workers.run(1000, [&](int item, int worker) {
      ++seen[static_cast<size_t>(item)];
      if (worker < 0 || worker >= threads) numbered = false;
    });
    for (const auto& s : seen) CHECK(s == 1);
    CHECK(numbered);
  }
}

TEST_CASE("workers: a group's second stage runs after its join, its join after its first stage") {
  for (const int threads : {1, 3}) {
    Workers workers(threads);
    constexpr int kGroups = 20, kFirst = 7, kSecond = 5;
    std::vector<std::atomic<int>> first(kGroups), joined(kGroups), second(kGroups);
    std::atomic<int> wrong{0};
    for (int round = 0; round < 3; ++round) {
      for (int g = 0; g < kGroups; ++g) {
        const auto i = static_cast<size_t>(g);
        first[i] = joined[i] = second[i] = 0;
      }
      workers.run_staged(
          kGroups, kFirst, [&](int g, int, int) { ++first[static_cast<size_t>(g)]; },
          [&](int g, int) {
            if (first[static_cast<size_t>(g)] != kFirst) ++wrong;
            ++joined[static_cast<size_t>(g)];
          },
          kSecond,
          [&](int g, int, int) {
            if (joined[static_cast<size_t>(g)] != 1) ++wrong;
            ++second[static_cast<size_t>(g)];
          });
      CHECK(wrong == 0);
      for (const auto& s : second) CHECK(s == kSecond);
    }
  }
}

TEST_CASE("workers: one thread does a group's second stage, but for what idle ones take") {
  constexpr int kGroups = 40, kItems = 16;
  Workers workers(2);
  std::array<std::array<int, kItems>, kGroups> by{};
  workers.run_staged(
      kGroups, 2, [](int, int, int) {}, [](int, int) {}, kItems,
      [&](int g, int item, int worker) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        by[static_cast<size_t>(g)][static_cast<size_t>(item)] = worker;
      });
  for (const auto& group : by) {
    int changes = 0;
    for (size_t i = 1; i < kItems; ++i) changes += group[i] != group[i - 1];
    CHECK(changes <= 1);
  }
}

TEST_CASE("workers: an exception reaches the caller and the workers go on working") {
  Workers workers(3);
  CHECK_THROWS_WITH_AS(workers.run(100, [](int item, int) { require(item != 50, "item ", item); }),
                       "item 50", Error);
  CHECK_THROWS_AS(workers.run_staged(
                      4, 4, [](int g, int, int) { require(g != 2, "group"); }, [](int, int) {}, 3,
                      [](int, int, int) {}),
                  Error);
  std::atomic<int> count{0};
  workers.run(10, [&](int, int) { ++count; });
  CHECK(count == 10);
  CHECK_THROWS_AS(Workers(0), Error);
}

TEST_CASE("workers: denormals are flushed inside items and the caller's setting survives") {
  const unsigned before = _mm_getcsr();
  Workers workers(2);
  std::atomic<int> kept{0};
  workers.run(64, [&](int, int) {
    volatile float tiny = 1e-30f;
    if (tiny * tiny != 0.0f || tiny * 1e-10f != 0.0f) ++kept;
  });
  CHECK(kept == 0);
  CHECK(_mm_getcsr() == before);
}

TEST_CASE("workers: submitted tasks run beside a run") {
  Workers workers(2);
  std::atomic<int> done{0};
  for (int i = 0; i < 10; ++i) workers.submit([&] { ++done; });
  while (done < 10) workers.run(4, [](int, int) {});
  CHECK(done == 10);
}

TEST_CASE("workers: thousands of short runs close together, beside submitted tasks") {
  Workers workers(4);
  std::atomic<int> submitted{0}, wrong{0};
  for (int round = 0; round < 5000; ++round) {
    const int items = round % 9, groups = round % 4 + 1;
    std::atomic<int> sum{0}, second{0};
    workers.run(items, [&](int item, int) { sum += item + 1; });
    if (sum != items * (items + 1) / 2) ++wrong;
    workers.run_staged(
        groups, 2, [&](int, int, int) { ++sum; }, [](int, int) {}, 3,
        [&](int, int, int) { ++second; });
    if (second != 3 * groups) ++wrong;
    if (round % 50 == 0) workers.submit([&] { ++submitted; });
  }
  CHECK(wrong == 0);
  while (submitted < 100) workers.run(4, [](int, int) {});
}

TEST_CASE("workers: the destructor waits for submitted tasks and for helpers") {
  std::atomic<int> done{0};
  for (int round = 0; round < 200; ++round) {
    Workers workers(3);
    workers.run(8, [](int, int) {});
    for (int i = 0; i < 3; ++i) workers.submit([&] { ++done; });
  }
  CHECK(done == 600);
}

TEST_CASE("available_threads: positive and within the affinity mask") {
  cpu_set_t set;
  CPU_ZERO(&set);
  REQUIRE(sched_getaffinity(0, sizeof set, &set) == 0);
  CHECK(available_threads() >= 1);
  CHECK(available_threads() <= CPU_COUNT(&set));
}

TEST_CASE("helper places: a helper goes to a CPU of its own if it may, and its mask stays") {
  cpu_set_t before, now;
  REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &before)) cpus.push_back(cpu);
  }
  const int count = static_cast<int>(cpus.size());
  const HelperPlaces places(count);
  for (const int helped : cpus) {
    std::set<int> taken = {helped};
    for (int number = 1; number < count; ++number) {
      int cpu = helped;
      for (int tries = 0; tries < 100 && taken.count(cpu) > 0; ++tries) {
        places.take(number, helped);
        cpu = sched_getcpu();  // the system may have moved it at once
      }
      CHECK(taken.insert(cpu).second);
    }
  }
  REQUIRE(sched_getaffinity(0, sizeof now, &now) == 0);
  CHECK(CPU_EQUAL(&now, &before));
  if (count == 1) return;
  cpu_set_t first;
  CPU_ZERO(&first);
  CPU_SET(cpus[0], &first);
  REQUIRE(sched_setaffinity(0, sizeof first, &first) == 0);
  places.take(1, cpus[0]);
  const int cpu = sched_getcpu();
  const bool read = sched_getaffinity(0, sizeof now, &now) == 0;
  REQUIRE(sched_setaffinity(0, sizeof before, &before) == 0);
  CHECK(cpu == cpus[0]);
  CHECK(read);
  CHECK(CPU_EQUAL(&now, &first));
}

TEST_CASE("rng: Philox4x32-10 known answers") {
  // Counter 0, key 0: the first known-answer vector of the Random123 distribution.
  Rng zero(0, 0, 0, static_cast<Purpose>(0));
  CHECK(zero.next() == 0x6627e8d5u);
  CHECK(zero.next() == 0xe169c58du);
  CHECK(zero.next() == 0xbc57ac4cu);
  CHECK(zero.next() == 0x9b00dbd8u);
}

TEST_CASE("rng: streams differ by seed, epoch, sample and purpose, and repeat otherwise") {
  const auto first = [](uint64_t seed, uint32_t epoch, uint64_t sample, Purpose purpose) {
    return Rng(seed, epoch, sample, purpose).next();
  };
  const uint32_t base = first(1, 2, 3, Purpose::augment);
  CHECK(base == first(1, 2, 3, Purpose::augment));
  CHECK(base != first(2, 2, 3, Purpose::augment));
  CHECK(base != first(1, 3, 3, Purpose::augment));
  CHECK(base != first(1, 2, 4, Purpose::augment));
  CHECK(base != first(1, 2, 3, Purpose::shuffle));
}

TEST_CASE("rng: moments of the uniform and the normal distribution") {
  Rng rng(7, 0, 0, Purpose::synthetic);
  constexpr int kCount = 200000;
  double sum = 0, square = 0, normal = 0, normal_square = 0;
  for (int i = 0; i < kCount; ++i) {
    const float u = rng.uniform();
    REQUIRE(u >= 0.0f);
    REQUIRE(u < 1.0f);
    sum += u;
    square += u * u;
    const float g = rng.normal();
    normal += g;
    normal_square += g * g;
  }
  CHECK(sum / kCount == doctest::Approx(0.5).epsilon(0.005));
  CHECK(square / kCount == doctest::Approx(1.0 / 3).epsilon(0.01));
  CHECK(std::abs(normal / kCount) < 0.01);
  CHECK(normal_square / kCount == doctest::Approx(1.0).epsilon(0.02));
}
