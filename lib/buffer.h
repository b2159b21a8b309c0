#pragma once

#include <cstddef>

namespace mbconv {

// Zero-initialised memory of its own pages, aligned to 2 MiB when that large (64 bytes at least),
// with transparent huge pages advised: a first touch of 4 KiB pages costs more than a pass over
// them.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);  // Throws Error if the system has no memory.
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void* mapping_ = nullptr;
  size_t mapped_ = 0;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace mbconv
