#pragma once

#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "io/file.h"

namespace mbconv::io {

// Whether a file that starts with `head` looks like gzip (1f 8b) or zlib (its header check).
bool looks_compressed(std::span<const std::byte> head);

// A place in the inflated data of a gzip file (of one or more members) or a zlib file. A copy,
// about 40 KB, goes on from the same place by itself.
class InflateStream {
 public:
  InflateStream();
  InflateStream(const InflateStream& other);
  InflateStream& operator=(const InflateStream&) = delete;
  ~InflateStream() { inflateEnd(&stream_); }

  // Inflates into `out`; returns how many bytes, fewer only at the end of the data or before
  // damage. Throws Error where the file cannot be read.
  size_t read(const InputFile& compressed, std::span<std::byte> out);
  // What is wrong with the compressed data, "" if nothing was found so far.
  const std::string& damage() const { return damage_; }

 private:
  z_stream stream_{};
  uint64_t next_ = 0;   // offset of the compressed byte that is inflated next
  bool ended_ = false;  // whether it is behind the end of a member
  std::string damage_;
};

// Inflates a whole file, handing the data to `sink` piece by piece. Returns "", or what is wrong
// with the compressed data, after all that comes before it was handed over. Throws Error where the
// file cannot be read, and what `sink` throws.
std::string inflate(const InputFile& compressed,
                    const std::function<void(std::span<const std::byte>)>& sink);

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
