#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// Little-endian numbers and the protobuf wire format, as far as records, examples and events use
// them.
namespace mbconv::io::wire {

static_assert(std::endian::native == std::endian::little, "formats are read as memory holds them");

// Wire types; 3 and 4 delimit groups, which no message here has.
enum class Type : uint32_t { varint = 0, fixed64 = 1, length = 2, fixed32 = 5 };

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline void append(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
  const size_t size = out.size();
  out.resize(size + bytes.size());
  std::copy(bytes.begin(), bytes.end(), out.begin() + static_cast<ptrdiff_t>(size));
}

template <class T>
void put(std::vector<std::byte>& out, T value) {
  append(out, std::as_bytes(std::span(&value, 1)));
}

inline void put_varint(std::vector<std::byte>& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<std::byte>(value | 0x80));
  out.push_back(static_cast<std::byte>(value));
}

inline void put_tag(std::vector<std::byte>& out, uint32_t field, Type type) {
  put_varint(out, (field << 3) | static_cast<uint32_t>(type));
}

// A string, bytes or message field.
inline void put_bytes(std::vector<std::byte>& out, uint32_t field,
                      std::span<const std::byte> bytes) {
  put_tag(out, field, Type::length);
  put_varint(out, bytes.size());
  append(out, bytes);
}

}  // namespace mbconv::io::wire
