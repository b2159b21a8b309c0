#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mbconv::io {

// CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected; RFC 3720 appendix B.4) of `data`.
uint32_t crc32c(std::span<const std::byte> data);

// The checksum as TFRecord stores it: rotated right by 15 bits, plus 0xa282ead8.
uint32_t masked_crc32c(std::span<const std::byte> data);

}  // namespace mbconv::io
