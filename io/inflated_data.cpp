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

InflatedData::InflatedData(std::shared_ptr<PieceCache> cache) : cache_(std::move(cache)) {
  begins_.push_back(std::make_unique<InflateStream>());
}

std::string InflatedData::measure(const InputFile& compressed) {
  InflateStream stream;
  std::vector<std::byte> piece(cache_->piece());
  for (size_t read = piece.size(); read == piece.size(); size_ += read) {
    read = stream.read(compressed, piece);
    if (read == piece.size()) begins_.push_back(std::make_unique<InflateStream>(stream));
  }
  return stream.damage();
}

// A copy of the stream at the begin of a piece. Streams that are missing are made on the way.
std::unique_ptr<InflateStream> InflatedData::stream_at(const InputFile& compressed, size_t number) {
  const std::lock_guard lock(mutex_);
  auto stream = std::make_unique<InflateStream>(*begins_[std::min(number, begins_.size() - 1)]);
  std::vector<std::byte> passed(number < begins_.size() ? 0 : cache_->piece());
  while (begins_.size() <= number) {
    stream->read(compressed, passed);
    begins_.push_back(std::make_unique<InflateStream>(*stream));
  }
  return stream;
}

void InflatedData::fill(const InputFile& compressed, size_t number, std::span<std::byte> out) {
  const std::unique_ptr<InflateStream> stream = stream_at(compressed, number);
  const size_t got = stream->read(compressed, out);
  require(
      got == out.size(), "cannot inflate: ",
      stream->damage().empty() ? "the file has changed since it was indexed" : stream->damage());
  const std::lock_guard lock(mutex_);
  if (begins_.size() == number + 1 && out.size() == cache_->piece())
    begins_.push_back(std::make_unique<InflateStream>(*stream));
}

void InflatedData::read_at(const InputFile& compressed, uint64_t offset, std::span<std::byte> out) {
  const size_t piece_size = cache_->piece();
  require(offset <= size_ && out.size() <= size_ - offset, "the inflated data end at offset ",
          size_);
  while (!out.empty()) {
    const size_t number = offset / piece_size, begin = offset % piece_size;
    const size_t size = std::min<uint64_t>(piece_size, size_ - (offset - begin));
    const auto piece = cache_->find(this, number, size);
    {
      const std::lock_guard lock(piece->filling);
      if (piece->bytes.empty()) {
        std::vector<std::byte> bytes(size);
        fill(compressed, number, bytes);
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
