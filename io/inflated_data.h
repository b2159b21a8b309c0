#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "io/file.h"
#include "io/inflate.h"

namespace mbconv::io {

class InflatedData;

// Pieces of inflated data that are kept in memory, shared by the files of a data set: those used
// last, within a bound in bytes. Safe from several threads.
class PieceCache {
 public:
  // `piece`: bytes of a piece, about, as a piece ends where a block of compressed data does.
  explicit PieceCache(size_t piece = size_t{8} << 20) : piece_(piece), bound_(64 * piece) {}

  size_t piece() const { return piece_; }
  void set_bound(uint64_t bytes);

 private:
  friend class InflatedData;
  struct Piece {
    std::mutex filling;
    std::vector<std::byte> bytes;  // empty until it is inflated
  };
  struct Entry {
    const InflatedData* owner;
    size_t number, size;
    std::shared_ptr<Piece> piece;
  };

  // The piece, which may have to be filled.
  std::shared_ptr<Piece> find(const InflatedData* owner, size_t number, size_t size);
  void forget(const InflatedData* owner);
  void drop_beyond_bound();

  const size_t piece_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the one used last is the first
  uint64_t bound_, bytes_ = 0;
};

// Whether all pieces between access points have at most 64 MiB, so that they can be read in place:
// a deflate block may have any size.
bool pieces_are_small(uint64_t size, const std::vector<AccessPoint>& points);

// The inflated data of a gzip or zlib file, read in any order without a copy on disk: a read
// inflates the pieces it needs, each from an access point to the next, or takes them from the
// cache. Safe from several threads.
class InflatedData {
 public:
  // `size`: bytes of all data. `points`: as inflate() found them with the cache's piece as spacing;
  // pieces_are_small.
  InflatedData(std::shared_ptr<PieceCache> cache, uint64_t size, std::vector<AccessPoint> points);
  ~InflatedData() { cache_->forget(this); }
  InflatedData(const InflatedData&) = delete;
  InflatedData& operator=(const InflatedData&) = delete;

  uint64_t size() const { return size_; }
  const std::vector<AccessPoint>& points() const { return points_; }
  // Fills `out` from `offset` on. Throws Error, as InputFile::read_at does.
  void read_at(const InputFile& compressed, uint64_t offset, std::span<std::byte> out);

 private:
  const std::shared_ptr<PieceCache> cache_;
  const uint64_t size_;
  const std::vector<AccessPoint> points_;
};

}  // namespace mbconv::io
