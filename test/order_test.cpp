#include "io/order.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "test/io_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

std::vector<uint32_t> epoch_of(EpochOrder& order, int64_t epoch) {
  std::vector<uint32_t> records;
  for (size_t p = 0; p < order.records(); ++p) records.push_back(order.record(epoch, p));
  return records;
}

OrderOptions blocks(size_t block, size_t window, uint64_t seed = 3) {
  return {Shuffle::block, seed, block, window};
}

}  // namespace

TEST_CASE("order: every epoch of every kind holds each record once") {
  for (const size_t records : {1, 2, 7, 100, 1000}) {
    for (const auto& options :
         {OrderOptions{Shuffle::off}, OrderOptions{Shuffle::on, 3}, blocks(8, 64), blocks(1, 1),
          blocks(7, 1), blocks(1000, 1000), blocks(3, 10), blocks(16, 100000)}) {
      EpochOrder order(records, options);
      for (int64_t epoch = 0; epoch < 3; ++epoch) {
        auto all = epoch_of(order, epoch);
        std::ranges::sort(all);
        std::vector<uint32_t> expected(records);
        std::iota(expected.begin(), expected.end(), 0u);
        REQUIRE(all == expected);
      }
    }
  }
}

TEST_CASE("order: a pure function of seed and epoch, whatever was asked before") {
  for (const auto& options : {OrderOptions{Shuffle::on, 3}, blocks(8, 32)}) {
    EpochOrder straight(300, options), jumping(300, options);
    const auto zero = epoch_of(straight, 0), one = epoch_of(straight, 1);
    CHECK(zero != one);
    // From the middle of another epoch, backwards, and in strides, as a shard asks.
    jumping.record(7, 123);
    for (size_t p = 300; p-- > 0;) REQUIRE(jumping.record(1, p) == one[p]);
    for (size_t p = 1; p < 300; p += 3) REQUIRE(jumping.record(0, p) == zero[p]);
    OrderOptions other = options;
    other.seed = 4;
    EpochOrder seeded(300, other);
    CHECK(epoch_of(seeded, 0) != zero);
  }
}

TEST_CASE("order: block shuffling keeps a window to whole blocks, and mixes their records") {
  EpochOrder order(1000, blocks(10, 50));
  const auto all = epoch_of(order, 0);
  std::set<uint32_t> seen;
  size_t neighbours = 0;
  for (size_t w = 0; w < 20; ++w) {
    std::set<uint32_t> here;
    for (size_t p = w * 50; p < (w + 1) * 50; ++p) {
      here.insert(all[p] / 10);
      if (p > w * 50 && all[p] == all[p - 1] + 1) ++neighbours;
    }
    CHECK(here.size() == 5);
    for (const uint32_t block : here) CHECK(seen.insert(block).second);
  }
  CHECK(neighbours < 100);
  CHECK(seen.size() == 100);
}

TEST_CASE("order: each block is announced once, a window ahead of its turn") {
  EpochOrder order(995, blocks(10, 50));
  const auto all = epoch_of(order, 2);
  for (const size_t stride : {1, 3}) {
    EpochOrder asked(995, blocks(10, 50));
    std::vector<int> announced(100, -1);
    for (size_t p = 0; p < 995; p += stride) {
      const auto [first, count] = asked.upcoming(2, p);
      CHECK(asked.record(2, p) == all[p]);
      if (count == 0) continue;
      CHECK(first % 10 == 0);
      CHECK(count == (first == 990 ? 5 : 10));
      CHECK(announced[first / 10] == -1);
      announced[first / 10] = static_cast<int>(p);
    }
    CHECK(std::ranges::count(announced, -1) == 5);  // those of the first window
    for (size_t p = 0; p < 995; ++p) CHECK(announced[all[p] / 10] < static_cast<int>(p));
  }
  EpochOrder whole(995, {Shuffle::on, 3});
  CHECK(whole.upcoming(0, 0).second == 0);
}

TEST_CASE("order: options that make no sense are refused") {
  check_names(error_of([] { parse_shuffle("maybe"); }), "maybe", "expected on, off or block");
  CHECK(parse_shuffle("block") == Shuffle::block);
  check_names(error_of([] { EpochOrder(0, {}); }), "no records");
  check_names(error_of([] { EpochOrder(5, blocks(0, 5)); }), "block");
  check_names(error_of([] { EpochOrder(5, blocks(5, 0)); }), "window");
}
