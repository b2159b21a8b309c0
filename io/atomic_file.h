#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "io/file.h"

namespace mbconv::io {

// A file that appears whole or not at all: what is written goes to PATH.tmp in the same folder, and
// commit() syncs it, renames it over `path` and syncs the folder. A reader or a crash sees the old
// file or the new one. A PATH.tmp left by a killed process is overwritten; one that is being
// written (it is locked) is an error. A symbolic link at `path` is replaced, not followed.
//
// Throws Error naming path and reason. Without a successful commit() the old file is as it was and
// the temporary one is removed by the destructor.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Unbuffered.
  void write(std::span<const std::byte> data);
  // Nothing may be written after it.
  void commit();

 private:
  std::string path_, temporary_;
  FileDescriptor file_;
};

// Writes `parts` one after the other through an AtomicFile.
void write_atomically(const std::string& path, std::span<const std::span<const std::byte>> parts);

}  // namespace mbconv::io
