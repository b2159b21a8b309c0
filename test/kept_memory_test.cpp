#include "io/kept_memory.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

using namespace mbconv::io;

namespace {

constexpr size_t kSizes[] = {1, 1000, 16 << 10, 100'000, 700'000, 4 << 20, (4 << 20) + 1};

bool zeroed(const void* block, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(block);
  return std::all_of(bytes, bytes + size, [](uint8_t byte) { return byte == 0; });
}

}  // namespace

TEST_CASE("kept memory: blocks are apart, aligned and zeroed, whatever they held before") {
  for (int round = 0; round < 3; ++round) {
    std::vector<void*> blocks;
    for (const size_t size : kSizes) {
      void* const block = kept_allocate(size);
      REQUIRE(block != nullptr);
      CHECK(reinterpret_cast<uintptr_t>(block) % 16 == 0);
      CHECK(zeroed(block, size));
      blocks.push_back(block);
    }
    for (size_t i = 0; i < blocks.size(); ++i) {
      std::memset(blocks[i], static_cast<int>(i + 1), kSizes[i]);
    }
    for (size_t i = 0; i < blocks.size(); ++i) {
      const auto* bytes = static_cast<const uint8_t*>(blocks[i]);
      CHECK(std::count(bytes, bytes + kSizes[i], static_cast<uint8_t>(i + 1)) ==
            static_cast<ptrdiff_t>(kSizes[i]));
      kept_free(blocks[i]);
    }
  }
}

TEST_CASE("kept memory: reallocation keeps the contents") {
  void* block = kept_reallocate(nullptr, 20'000);
  REQUIRE(block != nullptr);
  std::memset(block, 5, 20'000);
  for (const size_t size : {size_t{30'000}, size_t{5'000'000}, size_t{20'000}}) {
    block = kept_reallocate(block, size);
    REQUIRE(block != nullptr);
    CHECK(std::count(static_cast<uint8_t*>(block), static_cast<uint8_t*>(block) + 20'000, 5) ==
          20'000);
  }
  kept_free(block);
  kept_free(nullptr);
}

TEST_CASE("kept memory: a size that no memory has gives null") {
  CHECK(kept_allocate(SIZE_MAX) == nullptr);
  CHECK(kept_allocate(SIZE_MAX - 8) == nullptr);
  void* const block = kept_allocate(100);
  CHECK(kept_reallocate(block, SIZE_MAX) == nullptr);
  kept_free(block);
}

TEST_CASE("kept memory: a block may be freed by another thread") {
  for (int round = 0; round < 4; ++round) {
    void* block = kept_allocate(50'000);
    std::thread([&] {
      std::memset(block, 3, 50'000);
      kept_free(block);
      block = kept_allocate(50'000);
    }).join();
    CHECK(zeroed(block, 50'000));
    kept_free(block);
  }
}
