#pragma once

#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "io/file.h"

namespace mbconv::io {

// Whether a file that starts with `head` looks like gzip (1f 8b) or zlib (its header check).
bool looks_compressed(std::span<const std::byte> head);

// Where a file can be inflated from without what comes before: the begin of a member, or of a
// deflate block within one (RFC 1951, section 3.2.3).
struct AccessPoint {
  uint64_t inflated = 0;    // offset, in all inflated data, of those that follow
  uint64_t compressed = 0;  // offset of the first whole byte they are made from
  unsigned bits = 0;        // highest ones of the byte before it that belong to them, too: 0 to 7
  unsigned check = 0;       // bytes of checksum behind the member's data; 0 at its begin
  std::vector<std::byte> window;  // the data before it that it may refer to, at most 32 KiB
  friend bool operator==(const AccessPoint&, const AccessPoint&) = default;
};

// The begin of a file, then the first place behind each multiple of `spacing` bytes of inflated
// data, as far as it was inflated.
struct AccessPoints {
  uint64_t spacing;
  std::vector<AccessPoint> points{{}};
};

// Inflates a gzip file (of one or more members) or a zlib file. `compressed` must outlive it.
class InflateStream {
 public:
  // From an access point of the file on; the checksum of the member it lies in is not looked at.
  explicit InflateStream(const InputFile& compressed, const AccessPoint& from = {});
  InflateStream(const InflateStream&) = delete;
  InflateStream& operator=(const InflateStream&) = delete;
  ~InflateStream() { inflateEnd(&stream_); }

  // Inflates into `out`, less than 4 GiB; returns how many bytes, fewer only at the end of the data
  // or before damage. Adds access points to `passed`, if given; then it must be given to every
  // read, from the begin of the file on. Throws Error where the file cannot be read.
  size_t read(std::span<std::byte> out, AccessPoints* passed = nullptr);
  // What is wrong with the compressed data, "" if nothing was found so far.
  const std::string& damage() const { return damage_; }

 private:
  void read_compressed();
  void begin_member();
  void skip_check();
  void add_point(AccessPoints& passed, uint64_t inflated);

  const InputFile& compressed_;
  std::vector<std::byte> in_;
  z_stream stream_{};
  uint64_t inflated_;    // offset of what is inflated next
  uint64_t next_;        // offset of the compressed byte that is read next
  unsigned check_;       // bytes of checksum behind the data of this member
  bool headless_;        // whether this member was begun at a block
  bool between_ = true;  // whether a member begins next, if anything
  std::string damage_;
};

// Inflates a whole file, handing the data to `sink` piece by piece. Returns "", or what is wrong
// with the compressed data, after all that comes before it was handed over. Adds to `passed`, if
// given. Throws Error where the file cannot be read, and what `sink` throws.
std::string inflate(const InputFile& compressed,
                    const std::function<void(std::span<const std::byte>)>& sink,
                    AccessPoints* passed = nullptr);

// A file without a name in TMPDIR, or /tmp, gone when it is closed. Throws Error naming the folder.
class TemporaryFile {
 public:
  TemporaryFile();
  void write(std::span<const std::byte> data);
  // For reading; nothing may be written after it.
  InputFile finish() { return InputFile(std::move(file_), size_); }

 private:
  std::string folder_;
  FileDescriptor file_;
  uint64_t size_ = 0;
};

}  // namespace mbconv::io
