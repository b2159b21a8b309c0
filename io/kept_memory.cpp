#include "io/kept_memory.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace mbconv::io {
namespace {

// A thread keeps at most this many blocks, none smaller (malloc is fast for those) or larger. A
// JPEG takes five: three channels, the picture, the decoder's state.
constexpr size_t kMostBlocks = 6;
constexpr size_t kSmallest = size_t{16} << 10, kLargest = size_t{4} << 20;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kKeep = false;  // so that a read past a block's end is found
#elif defined(__has_feature)
constexpr bool kKeep = !__has_feature(address_sanitizer);
#else
constexpr bool kKeep = true;
#endif

// Before each block.
struct alignas(16) Head {
  size_t capacity;
};

Head* head_of(void* block) {
  return static_cast<Head*>(block) - 1;
}

class Kept {
 public:
  ~Kept() {
    for (Head* head : heads_) std::free(head);
  }

  // The smallest kept block that is large enough, or null.
  Head* take(size_t size) {
    size_t best = kMostBlocks;
    for (size_t i = 0; i < kMostBlocks; ++i) {
      const bool fits = heads_[i] != nullptr && heads_[i]->capacity >= size;
      if (fits && (best == kMostBlocks || heads_[i]->capacity < heads_[best]->capacity)) best = i;
    }
    if (best == kMostBlocks) return nullptr;
    Head* const head = heads_[best];
    heads_[best] = nullptr;
    return head;
  }

  // Keeps a block or frees it, or a smaller one in its place.
  void give(Head* head) {
    if (kKeep && kSmallest <= head->capacity && head->capacity <= kLargest) {
      size_t least = 0;
      for (size_t i = 0; i < kMostBlocks; ++i) {
        if (capacity(i) < capacity(least)) least = i;
      }
      if (capacity(least) < head->capacity) std::swap(head, heads_[least]);
    }
    std::free(head);
  }

 private:
  size_t capacity(size_t i) const { return heads_[i] == nullptr ? 0 : heads_[i]->capacity; }

  Head* heads_[kMostBlocks] = {};
};
thread_local Kept kept;

}  // namespace

void* kept_allocate(size_t size) {
  if (size > SIZE_MAX - sizeof(Head)) return nullptr;
  if (kKeep && kSmallest <= size && size <= kLargest) {
    if (Head* const head = kept.take(size)) {
      std::memset(head + 1, 0, size);
      return head + 1;
    }
  }
  void* const memory = std::calloc(1, sizeof(Head) + size);
  return memory == nullptr ? nullptr : new (memory) Head{size} + 1;
}

void* kept_reallocate(void* block, size_t size) {
  if (block == nullptr) return kept_allocate(size);
  if (size > SIZE_MAX - sizeof(Head)) return nullptr;
  void* const memory = std::realloc(head_of(block), sizeof(Head) + size);
  return memory == nullptr ? nullptr : new (memory) Head{size} + 1;
}

void kept_free(void* block) {
  if (block != nullptr) kept.give(head_of(block));
}

}  // namespace mbconv::io
