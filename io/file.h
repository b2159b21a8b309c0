#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace mbconv::io {

// A file descriptor that closes itself.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// The system's words for an errno value.
std::string system_reason(int error);

// Writes all of `data`. Returns 0 or the errno.
[[nodiscard]] int write_all(const FileDescriptor& file, std::span<const std::byte> data);

// A regular file open for reading in any order, from several threads at once.
class InputFile {
 public:
  // Throws Error naming path and reason; a folder, a pipe or a device is refused.
  explicit InputFile(const std::string& path);
  InputFile(FileDescriptor file, uint64_t size) : file_(std::move(file)), size_(size) {}

  const FileDescriptor& descriptor() const { return file_; }
  uint64_t size() const { return size_; }  // when it was opened
  // Fills `out` from `offset` on. Throws Error, which leaves it to the caller to name the file and
  // what was read.
  void read_at(uint64_t offset, std::span<std::byte> out) const;

 private:
  FileDescriptor file_;
  uint64_t size_ = 0;
};

}  // namespace mbconv::io
