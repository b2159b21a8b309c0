#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mbconv::io {

// CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected; RFC 3720 appendix B.4) of `data`. Uses the
// CPU's instruction where there is one.
uint32_t crc32c(std::span<const std::byte> data);

// The checksum as TFRecord stores it: rotated right by 15 bits, plus 0xa282ead8.
uint32_t masked_crc32c(std::span<const std::byte> data);

// The two versions behind crc32c. crc32c_sse42 may be called only if has_sse42().
uint32_t crc32c_portable(std::span<const std::byte> data);
uint32_t crc32c_sse42(std::span<const std::byte> data);
bool has_sse42();

}  // namespace mbconv::io
