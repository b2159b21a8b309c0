#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/match_files.h"

namespace mbconv::io {

// TFRecord framing: {u64 length, u32 masked CRC of the length, data, u32 masked CRC of the data},
// little-endian, repeated.

// Appends the frame of a record to `out`.
void append_record(std::vector<std::byte>& out, std::span<const std::byte> data);

// Where a record's frame begins, in the file's uncompressed bytes, and the length of its data.
struct RecordLocation {
  uint64_t offset;
  uint64_t length;
};

// One TFRecord file, opened for reading records in any order. A file is plain if its first frame
// has a valid length CRC, else gzip or zlib if its first bytes say so; a compressed one is inflated
// once into an unlinked temporary file in TMPDIR or /tmp. Opening walks all frame headers, so that
// an empty or truncated file, a wrong length CRC or a length past the end is found before training
// starts.
//
// Its descriptor stays open while that leaves half of the descriptors the process may have
// ("ulimit -n") to others; beyond that a plain file is opened anew for each read, so that a data
// set may have any number of files.
//
// Errors: Error naming the file, the record's number in it (from 0), its offset, and what was
// expected and found.
class RecordFile {
 public:
  explicit RecordFile(std::string path);
  ~RecordFile();
  RecordFile(RecordFile&&) noexcept;
  RecordFile& operator=(RecordFile&&) noexcept;

  const std::string& path() const;
  size_t size() const;  // records, at least 1
  RecordLocation location(size_t record) const;
  // "FILE: record 17 at offset 12345": for messages about a record's content.
  std::string describe(size_t record) const;
  // Reads the data of a record into `out` and checks its CRC. Safe from several threads.
  void read(size_t record, std::vector<std::byte>& out) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// All records of several files as one sequence, file after file.
class RecordSet {
 public:
  // Opens the files of match_files(pattern), several at a time, as opening waits for the disk.
  explicit RecordSet(const std::string& pattern);

  size_t size() const { return starts_.back(); }
  size_t files() const { return files_.size(); }
  void read(size_t record, std::vector<std::byte>& out) const;
  // RecordFile::describe of the file that holds the record.
  std::string describe(size_t record) const;

 private:
  struct Place {
    size_t file, record;
  };
  Place place(size_t record) const;

  std::vector<RecordFile> files_;
  std::vector<size_t> starts_;  // starts_[f]: number of file f's first record; one more at the end
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
