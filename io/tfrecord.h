#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/framing.h"
#include "io/index_cache.h"
#include "io/match_files.h"
#include "io/record_index.h"

namespace mbconv::io {

class PieceCache;

// How record files are opened.
struct OpenOptions {
  // resynchronise: damaged frames become records that cannot be read; an empty file, one that is no
  // TFRecord file and the missing end of a compressed one become a damaged record each.
  OnDamage on_damage = OnDamage::stop;
  const IndexCache* cache = nullptr;  // none: headers are walked at each opening
  // Compressed files that have no inflated copy in the cache are read in place, their pieces kept
  // here, unless a piece would be too large for that. None: they are inflated.
  std::shared_ptr<PieceCache> pieces = nullptr;
};

// One TFRecord file, opened for reading records in any order. A file is plain if its first frame
// has a valid length CRC, else gzip or zlib if its first bytes say so; a compressed one is read in
// place, or inflated once into the folder of the cache, or, where that has none, into an unlinked
// temporary file in TMPDIR or /tmp. Opening takes the index from the cache or walks all frame
// headers, so that an empty or truncated file, a wrong length CRC or a length past the end is found
// before training starts.
//
// Its descriptor stays open while that leaves half of the descriptors the process may have
// ("ulimit -n") to others; beyond that a file is opened anew for each read, so that a data set may
// have any number of files.
//
// Errors: Error naming the file, the record's number in it (from 0), its offset, and what was
// expected and found.
class RecordFile {
 public:
  explicit RecordFile(std::string path, const OpenOptions& options = {});
  ~RecordFile();
  RecordFile(RecordFile&&) noexcept;
  RecordFile& operator=(RecordFile&&) noexcept;

  const std::string& path() const;
  size_t size() const;  // records, at least 1
  RecordLocation location(size_t record) const;
  // "FILE: record 17 at offset 12345": for messages about a record's content.
  std::string describe(size_t record) const;
  // Reads the data of a record into `out` and checks both CRCs. Safe from several threads. Throws
  // DamagedRecord if they are wrong or cannot be read.
  void read(size_t record, std::vector<std::byte>& out) const;
  // The bytes of a record's frame or damaged stretch as they are, header and CRCs included, at most
  // `most` of them.
  void read_raw(size_t record, size_t most, std::vector<std::byte>& out) const;
  // Asks the system to fetch the records [first, first + count) from the disk; does not wait. Does
  // nothing for data that are inflated in place.
  void will_need(size_t first, size_t count) const;
  // Whether it is a compressed file that is read in place; then reading records that lie together
  // costs little more than reading one.
  bool inflates() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Writes a plain TFRecord file through an AtomicFile: it appears when close() is called, and
// without close() nothing is left. Throws Error (full disk, for example).
class RecordWriter {
 public:
  explicit RecordWriter(const std::string& path);
  ~RecordWriter();
  void write(std::span<const std::byte> data);
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mbconv::io
