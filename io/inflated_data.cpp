#include "io/inflated_data.h"

#include <algorithm>
#include <utility>

#include "lib/error.h"

namespace mbconv::io {

void PieceCache::set_bound(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  bound_ = bytes;
  drop_beyond_bound();
}

// At least one stays. Who reads a piece that is dropped holds it until then.
void PieceCache::drop_beyond_bound() {
  while (bytes_ > bound_ && entries_.size() > 1) {
    bytes_ -= entries_.back().size;
    entries_.pop_back();
  }
}

std::shared_ptr<PieceCache::Piece> PieceCache::find(const InflatedData* owner, size_t number,
                                                    size_t size) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find_if(
      entries_, [&](const Entry& e) { return e.owner == owner && e.number == number; });
  if (found != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, found);
  } else {
    entries_.push_front({owner, number, size, std::make_shared<Piece>()});
    bytes_ += size;
    drop_beyond_bound();
  }
  return entries_.front().piece;
}

void PieceCache::forget(const InflatedData* owner) {
  const std::lock_guard lock(mutex_);
  std::erase_if(entries_, [&](const Entry& e) {
    if (e.owner == owner) bytes_ -= e.size;
    return e.owner == owner;
  });
}

bool pieces_are_small(uint64_t size, const std::vector<AccessPoint>& points) {
  constexpr uint64_t kMost = uint64_t{64} << 20;
  for (size_t i = 0; i < points.size(); ++i) {
    const uint64_t end = i + 1 < points.size() ? points[i + 1].inflated : size;
    if (end - points[i].inflated > kMost) return false;
  }
  return true;
}

InflatedData::InflatedData(std::shared_ptr<PieceCache> cache, uint64_t size,
                           std::vector<AccessPoint> points)
    : cache_(std::move(cache)), size_(size), points_(std::move(points)) {}

void InflatedData::read_at(const InputFile& compressed, uint64_t offset, std::span<std::byte> out) {
  require(offset <= size_ && out.size() <= size_ - offset, "the inflated data end at offset ",
          size_);
  while (!out.empty()) {
    const auto after = std::ranges::upper_bound(points_, offset, {}, &AccessPoint::inflated);
    const AccessPoint& point = *(after - 1);
    const uint64_t end = after == points_.end() ? size_ : after->inflated;
    const size_t size = end - point.inflated, begin = offset - point.inflated;
    const auto piece = cache_->find(this, static_cast<size_t>(after - points_.begin()), size);
    {
      const std::lock_guard lock(piece->filling);
      if (piece->bytes.empty()) {
        std::vector<std::byte> bytes(size);
        InflateStream stream(compressed, point);
        const size_t got = stream.read(bytes);
        require(got == size, "cannot inflate: ",
                stream.damage().empty() ? "the file has changed since it was indexed"
                                        : stream.damage());
        piece->bytes = std::move(bytes);
      }
    }
    const size_t count = std::min(out.size(), size - begin);
    std::copy_n(piece->bytes.begin() + static_cast<ptrdiff_t>(begin), count, out.begin());
    offset += count;
    out = out.subspan(count);
  }
}

}  // namespace mbconv::io
