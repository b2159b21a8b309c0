#include "lib/arena.h"

#include <algorithm>
#include <iomanip>
#include <numeric>
#include <sstream>

namespace mbconv {
namespace {

constexpr size_t kAlignment = 64;

}  // namespace

Arena::Id Arena::add_bytes(std::string name, size_t bytes, int first, int last) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  slots_.push_back({std::move(name), bytes, first, last, 0});
  return static_cast<Id>(slots_.size()) - 1;
}

void Arena::extend(Id id, int last) {
  Slot& slot = slots_[static_cast<size_t>(id)];
  slot.last = std::max(slot.last, last);
}

void Arena::plan() {
  std::vector<size_t> order(slots_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return slots_[a].bytes > slots_[b].bytes; });
  std::vector<const Slot*> placed;  // by offset
  bytes_ = 0;
  for (const size_t index : order) {
    Slot& slot = slots_[index];
    size_t offset = 0;
    for (const Slot* other : placed) {
      const bool alive_together = slot.first <= other->last && other->first <= slot.last;
      if (!alive_together) continue;
      if (offset + slot.bytes <= other->offset) break;
      offset = std::max(offset, other->offset + other->bytes);
    }
    slot.offset = offset;
    bytes_ = std::max(bytes_, offset + slot.bytes);
    const auto place =
        std::upper_bound(placed.begin(), placed.end(), &slot,
                         [](const Slot* a, const Slot* b) { return a->offset < b->offset; });
    placed.insert(place, &slot);
  }
}

size_t Arena::bytes_alive(int pass) const {
  size_t sum = 0;
  for (const Slot& s : slots_) {
    if (s.first <= pass && pass <= s.last) sum += s.bytes;
  }
  return sum;
}

std::string Arena::describe() const {
  std::ostringstream out;
  out << std::fixed << std::setprecision(2);
  out << std::left << std::setw(28) << "buffer" << std::right << std::setw(10) << "MiB"
      << std::setw(8) << "first" << std::setw(8) << "last" << std::setw(14) << "offset MiB" << '\n';
  constexpr double kMiB = 1 << 20;
  for (const Slot& s : slots_) {
    out << std::left << std::setw(28) << s.name << std::right << std::setw(10)
        << static_cast<double>(s.bytes) / kMiB << std::setw(8) << s.first << std::setw(8) << s.last
        << std::setw(14) << static_cast<double>(s.offset) / kMiB << '\n';
  }
  out << "total " << static_cast<double>(bytes_) / kMiB << " MiB\n";
  return out.str();
}

}  // namespace mbconv
