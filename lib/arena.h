#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "lib/buffer.h"

namespace mbconv {

// The memory of a step, planned before anything runs: each buffer lives from one pass number to
// another (both included), and buffers whose lives do not overlap share addresses. Once allocated,
// nothing is allocated again.
class Arena {
 public:
  using Id = int;

  // Registers a buffer of `count` elements of T that lives during passes [first, last].
  template <class T>
  Id add(std::string name, size_t count, int first, int last) {
    return add_bytes(std::move(name), count * sizeof(T), first, last);
  }

  // Lets a buffer live until pass `last` at least.
  void extend(Id id, int last);

  // Assigns offsets. Largest first, each at the lowest offset that no buffer alive at the same time
  // occupies; offsets are multiples of 64 bytes.
  void plan();
  // plan() must have run.
  size_t bytes() const { return bytes_; }
  // Sum of the buffers alive during pass `pass`.
  size_t bytes_alive(int pass) const;
  // A table of the plan for people: name, MiB, first and last pass, offset.
  std::string describe() const;

  size_t bytes(Id id) const { return slots_[static_cast<size_t>(id)].bytes; }

  void allocate() { buffer_ = Buffer(bytes_); }
  template <class T>
  T* data(Id id) const {
    return reinterpret_cast<T*>(buffer_.data() + slots_[static_cast<size_t>(id)].offset);
  }

 private:
  struct Slot {
    std::string name;
    size_t bytes;
    int first, last;
    size_t offset;
  };

  Id add_bytes(std::string name, size_t bytes, int first, int last);

  std::vector<Slot> slots_;
  size_t bytes_ = 0;
  Buffer buffer_;
};

}  // namespace mbconv
