#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/file.h"
#include "io/inflate.h"
#include "io/record_index.h"

namespace mbconv::io {

// Tells a file from a changed one: size in bytes, times of the last change of its data and of
// anything, in nanoseconds since 1970.
struct FileStamp {
  uint64_t size = 0;
  int64_t modified = 0, changed = 0;
  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};
FileStamp stamp_of(const InputFile& file);

// The index of a file of records with what it was made from.
struct ShardIndex {
  FileStamp source;
  bool inflated = false;            // whether offsets are those of the inflated data
  uint64_t bytes = 0;               // of the plain or inflated data
  std::vector<AccessPoint> points;  // of a compressed file that is read in place; else none
  RecordIndex index;
};

// As a cache file holds it: a magic with the format's version, the stamp, varints, and a CRC-32C
// over all.
std::vector<std::byte> encode_index(const ShardIndex& index);
// None if the bytes are damaged, cut, or of another version.
std::optional<ShardIndex> decode_index(std::span<const std::byte> bytes);

// Where indexes of record files are kept between runs: beside each file as ".NAME.mbconv-index"
// (which no glob of the data matches), or all in one folder, which then also takes the inflated
// data of compressed files. Safe for several threads and processes.
class IndexCache {
 public:
  // Beside the data.
  IndexCache() = default;
  // In a folder, made if there is none. Throws Error if it cannot be written.
  explicit IndexCache(std::string folder);

  // The index of the file at `path`; none if there is none that fits `stamp`.
  std::optional<ShardIndex> load(const std::string& path, const FileStamp& stamp) const;
  // Where it cannot be written: Error in a folder; beside the data, which may lie on a read-only
  // disk, unkept() tells. A file that was changed this instant is not stored: its next change could
  // bear the same time.
  void store(const std::string& path, const ShardIndex& index) const;
  // Of an index that could not be stored beside the data: its name and the reason. "" if there is
  // none.
  std::string unkept() const;
  // Where inflated data of the file go; "" beside the data.
  std::string inflated_path(const std::string& path) const;

 private:
  std::string name_in_folder(const std::string& path) const;
  std::string index_path(const std::string& path) const;

  std::string folder_;
  mutable std::mutex mutex_;
  mutable std::string unkept_;
};

}  // namespace mbconv::io
