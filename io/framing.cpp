#include "io/framing.h"

#include <iomanip>
#include <ostream>

#include "io/crc32c.h"
#include "io/wire.h"

namespace mbconv::io {
namespace {

struct Hex {
  uint32_t value;
  friend std::ostream& operator<<(std::ostream& out, Hex hex) {
    return out << "0x" << std::hex << std::setw(8) << std::setfill('0') << hex.value << std::dec;
  }
};

}  // namespace

std::ostream& operator<<(std::ostream& out, Crc crc) {
  return out << "expected " << Hex{crc.expected} << ", found " << Hex{crc.found};
}

Crc length_crc(const std::byte* header) {
  return {masked_crc32c({header, 8}), wire::load<uint32_t>(header + 8)};
}

void append_record(std::vector<std::byte>& out, std::span<const std::byte> data) {
  const size_t start = out.size();
  wire::put<uint64_t>(out, data.size());
  wire::put(out, masked_crc32c(std::span(out).subspan(start, 8)));
  wire::append(out, data);
  wire::put(out, masked_crc32c(data));
}

}  // namespace mbconv::io
