#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace mbconv::io {

enum class Shuffle {
  off,   // as the records lie
  on,    // a permutation of all records
  block  // for slow disks: blocks of consecutive records in random order, shuffled in windows
};
// Throws Error with the names there are: off, on, block.
Shuffle parse_shuffle(std::string_view name);

struct OrderOptions {
  Shuffle shuffle = Shuffle::on;
  uint64_t seed = 0;
  size_t block = 256;    // consecutive records that stay in one window
  size_t window = 8192;  // records shuffled among themselves, rounded up to whole blocks
};

// The order of the records in each epoch, a pure function of (seed, epoch). Block shuffling
// permutes the blocks, the last of which may be short, and then the records of each window of
// blocks; so only a window's records, in runs of a block, are read at about the same time.
class EpochOrder {
 public:
  // `records` in [1, 2^32). Throws Error if the options make no sense.
  EpochOrder(size_t records, const OrderOptions& options);

  size_t records() const { return records_; }
  // The record at `position` of an epoch. One epoch, and one window of it, is held at a time:
  // positions are cheap in ascending order.
  uint32_t record(int64_t epoch, size_t position);
  // For block shuffling, when the order enters another block: the run {first record, count} worth
  // fetching from the disk, the block that takes its place in the next window. Count 0: none.
  std::pair<size_t, size_t> upcoming(int64_t epoch, size_t position);

 private:
  void permute_epoch(int64_t epoch);
  void permute_window(size_t window);
  std::pair<size_t, size_t> block_at(size_t index) const;

  size_t records_, blocks_;
  OrderOptions options_;
  size_t window_blocks_;
  int64_t epoch_ = -1;
  size_t window_ = 0, window_begin_ = 0;
  size_t entered_ = 0;           // place of the block that upcoming() was asked for last, plus 1
  std::vector<uint32_t> order_;  // on: of all records; block: of the blocks
  std::vector<uint64_t> block_starts_;  // position of the first record of the block at each place
  std::vector<uint32_t> window_order_;
};

}  // namespace mbconv::io
