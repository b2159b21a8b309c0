#include "io/wire.h"

namespace mbconv::io::wire {

void append(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

void put_varint(std::vector<std::byte>& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<std::byte>(value | 0x80));
  out.push_back(static_cast<std::byte>(value));
}

void put_tag(std::vector<std::byte>& out, uint32_t field, Type type) {
  put_varint(out, (field << 3) | static_cast<uint32_t>(type));
}

void put_bytes(std::vector<std::byte>& out, uint32_t field, std::span<const std::byte> bytes) {
  put_tag(out, field, Type::length);
  put_varint(out, bytes.size());
  append(out, bytes);
}

}  // namespace mbconv::io::wire
