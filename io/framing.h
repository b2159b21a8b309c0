#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/error.h"

namespace mbconv::io {

// TFRecord framing: {u64 length, u32 masked CRC of the length, data, u32 masked CRC of the data},
// little-endian, repeated.
inline constexpr uint64_t kFrameHeader = 12, kFrameFooter = 4;  // bytes around the data

// Appends the frame of a record to `out`.
void append_record(std::vector<std::byte>& out, std::span<const std::byte> data);

// A masked CRC as computed and as stored. Printed as "expected 0x..., found 0x...".
struct Crc {
  uint32_t expected, found;
  bool matches() const { return expected == found; }
  friend std::ostream& operator<<(std::ostream& out, Crc crc);
  friend bool operator==(const Crc&, const Crc&) = default;
};

// Of the kFrameHeader bytes at `header`: what its length's CRC is and should be.
Crc length_crc(const std::byte* header);

// What is wrong with a record, and the checksum that shows it, if one does.
struct Fault {
  std::string reason;
  std::optional<Crc> crc;
  friend bool operator==(const Fault&, const Fault&) = default;
};

// A record whose bytes are not as they were written, or cannot be read.
class DamagedRecord : public Error {
 public:
  // `where` names file, record and offset.
  DamagedRecord(const std::string& where, Fault fault)
      : Error(where, ": ", fault.reason), fault_(std::move(fault)) {}
  const Fault& fault() const { return fault_; }

 private:
  Fault fault_;
};

}  // namespace mbconv::io
