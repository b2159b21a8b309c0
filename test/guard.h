#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace mbconv::test {

// Bytes that memory is filled with before an op runs. As floats and doubles 0xff.. is NaN and
// 0x71.. about 1e30 and 1e238: what is read though nobody wrote it makes itself known.
enum class Fill : unsigned char { nan = 0xff, huge = 0x71 };

// Memory of exactly `bytes` bytes, 64-byte aligned, between guard zones of NaN. The zones detect
// writes; under the address sanitizer reads as well.
class GuardedBytes {
 public:
  explicit GuardedBytes(size_t bytes) : bytes_(bytes) {
    const size_t all = kZone + (bytes + 63) / 64 * 64 + kZone;
    memory_ = static_cast<std::byte*>(::operator new (all, std::align_val_t{64}));
    end_ = memory_ + all;
    std::memset(memory_, kPattern, all);
    poison(true);
  }
  ~GuardedBytes() {
    poison(false);
    ::operator delete (memory_, std::align_val_t{64});
  }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  std::byte* data() const { return memory_ + kZone; }
  size_t size() const { return bytes_; }
  void fill(Fill f) { std::memset(data(), static_cast<int>(f), bytes_); }

  bool intact() {
    poison(false);
    bool ok = true;
    for (const std::byte* p = memory_; p != data(); ++p) ok = ok && *p == std::byte{kPattern};
    for (const std::byte* p = data() + bytes_; p != end_; ++p) ok = ok && *p == std::byte{kPattern};
    poison(true);
    return ok;
  }

 private:
  static constexpr size_t kZone = 256;
  static constexpr unsigned char kPattern = 0xff;

  void poison([[maybe_unused]] bool on) {
#if defined(__SANITIZE_ADDRESS__)
    if (on) {
      __asan_poison_memory_region(memory_, kZone);
      __asan_poison_memory_region(data() + bytes_, static_cast<size_t>(end_ - data()) - bytes_);
    } else {
      __asan_unpoison_memory_region(memory_, static_cast<size_t>(end_ - memory_));
    }
#endif
  }

  size_t bytes_;
  std::byte *memory_, *end_;
};

// All the memory that one call of an op sees, each piece by its role.
class Memory {
 public:
  // Must not change.
  template <class T>
  T* input(const std::vector<T>& values) {
    return add(Role::input, values);
  }
  // Overwritten by the op.
  template <class T>
  T* output(size_t count) {
    return add(Role::output, std::vector<T>(count));
  }
  // Added to, or updated, by the op, from these values on.
  template <class T>
  T* accumulated(const std::vector<T>& start) {
    return add(Role::accumulated, start);
  }
  // Scratch of the op, of no meaning after it.
  template <class T>
  T* work(size_t count) {
    return add(Role::work, std::vector<T>(count));
  }

  // Before a run: outputs and work to `fill`, accumulated ones to their start.
  void reset(Fill fill) {
    for (Piece& p : pieces_) {
      if (p.role == Role::output || p.role == Role::work) p.bytes->fill(fill);
      if (p.role == Role::accumulated) restore(p);
    }
  }
  // After a run: nothing but outputs was written.
  void check() {
    for (Piece& p : pieces_) {
      CHECK_MESSAGE(p.bytes->intact(), "a guard zone of a ", p.bytes->size(),
                    "-byte buffer was written");
      if (p.role != Role::input) continue;
      CHECK_MESSAGE(std::memcmp(p.bytes->data(), p.start.data(), p.start.size()) == 0,
                    "an input of ", p.bytes->size(), " bytes was written");
    }
  }
  // The bits of all results.
  std::vector<std::byte> results() const {
    std::vector<std::byte> all;
    for (const Piece& p : pieces_) {
      if (p.role != Role::output && p.role != Role::accumulated) continue;
      all.insert(all.end(), p.bytes->data(), p.bytes->data() + p.bytes->size());
    }
    return all;
  }
  // What an accumulated piece starts from.
  template <class T>
  std::vector<T> start(const T* piece) const {
    for (const Piece& p : pieces_) {
      if (p.bytes->data() != reinterpret_cast<const std::byte*>(piece)) continue;
      std::vector<T> values(p.start.size() / sizeof(T));
      std::memcpy(values.data(), p.start.data(), p.start.size());
      return values;
    }
    return {};
  }

 private:
  enum class Role { input, output, accumulated, work };
  struct Piece {
    Role role;
    std::unique_ptr<GuardedBytes> bytes;
    std::vector<std::byte> start;
  };

  static void restore(Piece& p) {
    if (!p.start.empty()) std::memcpy(p.bytes->data(), p.start.data(), p.start.size());
  }

  template <class T>
  T* add(Role role, const std::vector<T>& values) {
    Piece p{role, std::make_unique<GuardedBytes>(values.size() * sizeof(T)), {}};
    const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
    p.start.assign(bytes, bytes + values.size() * sizeof(T));
    restore(p);
    pieces_.push_back(std::move(p));
    return reinterpret_cast<T*>(pieces_.back().bytes->data());
  }

  std::vector<Piece> pieces_;
};

}  // namespace mbconv::test
