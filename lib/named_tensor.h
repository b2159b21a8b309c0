#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/error.h"

namespace mbconv {

enum class Dtype { f32, f64, i64 };

constexpr size_t size_of(Dtype dtype) {
  return dtype == Dtype::f32 ? 4 : 8;
}

// A tensor with a name, as checkpoints hold it: dense, row-major, little-endian, owning its bytes.
struct NamedTensor {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<int64_t> shape;  // empty: a scalar
  std::vector<std::byte> bytes;

  int64_t count() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return n;
  }
  template <class T>
  T* values() {
    return reinterpret_cast<T*>(bytes.data());
  }
  template <class T>
  const T* values() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
};

// A checkpoint: tensors in file order and free-form metadata.
struct TensorFile {
  std::vector<NamedTensor> tensors;
  std::map<std::string, std::string> metadata;

  const NamedTensor* find(const std::string& name) const {
    for (const NamedTensor& t : tensors) {
      if (t.name == name) return &t;
    }
    return nullptr;
  }
};

}  // namespace mbconv
