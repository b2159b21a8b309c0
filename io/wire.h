#pragma once

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

void append(std::vector<std::byte>& out, std::span<const std::byte> bytes);

template <class T>
void put(std::vector<std::byte>& out, T value) {
  append(out, std::as_bytes(std::span(&value, 1)));
}

void put_varint(std::vector<std::byte>& out, uint64_t value);
void put_tag(std::vector<std::byte>& out, uint32_t field, Type type);
// A string, bytes or message field.
void put_bytes(std::vector<std::byte>& out, uint32_t field, std::span<const std::byte> bytes);

}  // namespace mbconv::io::wire
