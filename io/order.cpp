#include "io/order.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

#include "lib/error.h"
#include "lib/rng.h"

namespace mbconv::io {
namespace {

constexpr size_t kNoWindow = std::numeric_limits<size_t>::max();

// Fisher and Yates's shuffle of values that are there already.
void shuffle(std::vector<uint32_t>& values, Rng rng) {
  if (values.empty()) return;
  for (size_t i = values.size() - 1; i > 0; --i) std::swap(values[i], values[rng.below(i + 1)]);
}

}  // namespace

Shuffle parse_shuffle(std::string_view name) {
  if (name == "off") return Shuffle::off;
  if (name == "on") return Shuffle::on;
  require(name == "block", "unknown kind of shuffling '", name, "', expected on, off or block");
  return Shuffle::block;
}

EpochOrder::EpochOrder(size_t records, const OrderOptions& options)
    : records_(records), options_(options) {
  require(records > 0, "there are no records to put in order");
  require(records <= std::numeric_limits<uint32_t>::max(), "records are counted in 32 bits, ",
          records, " are too many");
  require(options.block >= 1, "a block must have at least 1 record");
  require(options.window >= 1, "a window must have at least 1 record");
  blocks_ = (records + options.block - 1) / options.block;
  window_blocks_ = (std::min(options.window, records) + options.block - 1) / options.block;
}

void EpochOrder::permute_epoch(int64_t epoch) {
  const bool blocks = options_.shuffle == Shuffle::block;
  order_.resize(blocks ? blocks_ : records_);
  std::iota(order_.begin(), order_.end(), 0u);
  shuffle(order_, Rng(options_.seed, static_cast<uint32_t>(epoch), 0, Purpose::shuffle));
  epoch_ = epoch;
  window_ = kNoWindow;
  entered_ = 0;
  if (!blocks) return;
  block_starts_.assign(1, 0);
  for (size_t i = 0; i < blocks_; ++i)
    block_starts_.push_back(block_starts_.back() + block_at(i).second);
}

// First record and length of the block at a place of the order.
std::pair<size_t, size_t> EpochOrder::block_at(size_t index) const {
  const size_t first = order_[index] * options_.block;
  return {first, std::min(options_.block, records_ - first)};
}

void EpochOrder::permute_window(size_t window) {
  const size_t begin = window * window_blocks_;
  const size_t end = std::min(begin + window_blocks_, blocks_);
  window_order_.clear();
  for (size_t i = begin; i < end; ++i) {
    const auto [first, count] = block_at(i);
    for (size_t r = 0; r < count; ++r) window_order_.push_back(static_cast<uint32_t>(first + r));
  }
  // Stream 0 is that of the blocks.
  shuffle(window_order_,
          Rng(options_.seed, static_cast<uint32_t>(epoch_), window + 1, Purpose::shuffle));
  window_ = window;
  window_begin_ = block_starts_[begin];
}

uint32_t EpochOrder::record(int64_t epoch, size_t position) {
  if (options_.shuffle == Shuffle::off) return static_cast<uint32_t>(position);
  if (epoch != epoch_) permute_epoch(epoch);
  if (options_.shuffle == Shuffle::on) return order_[position];
  const bool inside = window_ != kNoWindow && position >= window_begin_ &&
                      position < window_begin_ + window_order_.size();
  if (!inside) {
    const auto after = std::upper_bound(block_starts_.begin(), block_starts_.end(), position);
    permute_window(static_cast<size_t>(after - block_starts_.begin() - 1) / window_blocks_);
  }
  return window_order_[position - window_begin_];
}

std::pair<size_t, size_t> EpochOrder::upcoming(int64_t epoch, size_t position) {
  if (options_.shuffle != Shuffle::block) return {0, 0};
  record(epoch, position);
  const auto after = std::upper_bound(block_starts_.begin(), block_starts_.end(), position);
  const auto entered = static_cast<size_t>(after - block_starts_.begin());
  if (entered == entered_) return {0, 0};
  entered_ = entered;
  const size_t next = entered - 1 + window_blocks_;
  return next < blocks_ ? block_at(next) : std::pair<size_t, size_t>{0, 0};
}

}  // namespace mbconv::io
