#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "io/file.h"
#include "io/inflate.h"

namespace mbconv::io {

class InflatedData;

// Pieces of inflated data that are kept in memory, shared by the files of a data set: those used
// last, within a bound in bytes. Safe from several threads.
class PieceCache {
 public:
  // `piece`: bytes of a piece.
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

// The inflated data of a gzip or zlib file, read in any order without a copy on disk: a stream is
// kept for the begin of every piece that was reached, and a read inflates the pieces it needs, or
// takes them from the cache. Safe from several threads.
class InflatedData {
 public:
  explicit InflatedData(std::shared_ptr<PieceCache> cache);
  ~InflatedData() { cache_->forget(this); }
  InflatedData(const InflatedData&) = delete;
  InflatedData& operator=(const InflatedData&) = delete;

  // Inflates the file once to find its size; returns what is wrong with it, "" if nothing.
  std::string measure(const InputFile& compressed);
  // Instead of that, where the size is known.
  void set_size(uint64_t size) { size_ = size; }
  uint64_t size() const { return size_; }
  // Fills `out` from `offset` on. Throws Error, as InputFile::read_at does.
  void read_at(const InputFile& compressed, uint64_t offset, std::span<std::byte> out);

 private:
  void fill(const InputFile& compressed, size_t number, std::span<std::byte> out);
  std::unique_ptr<InflateStream> stream_at(const InputFile& compressed, size_t number);

  std::shared_ptr<PieceCache> cache_;
  uint64_t size_ = 0;
  std::mutex mutex_;
  std::vector<std::unique_ptr<const InflateStream>> begins_;  // of pieces 0, 1, ...
};

}  // namespace mbconv::io
