#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "io/file.h"

namespace mbconv::io {

// Whether a file that starts with `head` looks like gzip (1f 8b) or zlib (its header check).
bool looks_compressed(std::span<const std::byte> head);

// Inflates a gzip file (of one or more members) or a zlib file, handing the data to `sink` piece by
// piece. Returns "", or what is wrong with the compressed data, after all that comes before it was
// handed over. Throws Error where the file cannot be read, and what `sink` throws.
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

// Inflates into a temporary file. Throws Error without the name of the file: damaged or truncated
// data, a full disk.
InputFile inflate_to_temporary(const InputFile& compressed);

}  // namespace mbconv::io
