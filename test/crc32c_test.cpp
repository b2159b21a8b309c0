#include "io/crc32c.h"

#include <doctest/doctest.h>

#include <string_view>
#include <vector>

#include "lib/rng.h"

using namespace mbconv;
using namespace mbconv::io;

namespace {

using Version = uint32_t (*)(std::span<const std::byte>);

std::vector<Version> versions() {
  std::vector<Version> all = {crc32c, crc32c_portable};
  if (has_sse42()) {
    all.push_back(crc32c_sse42);
  } else {
    MESSAGE("skipped here: crc32c_sse42, which this CPU lacks");
  }
  return all;
}

std::vector<std::byte> random_bytes(size_t count) {
  Rng rng(1, 0, count, Purpose::synthetic);
  std::vector<std::byte> bytes(count);
  for (std::byte& b : bytes) b = static_cast<std::byte>(rng.next());
  return bytes;
}

// The definition, one bit at a time.
uint32_t bitwise(std::span<const std::byte> data) {
  uint32_t crc = 0xFFFFFFFF;
  for (const std::byte b : data) {
    crc ^= static_cast<uint32_t>(b);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82F63B78 : crc >> 1;
  }
  return ~crc;
}

}  // namespace

TEST_CASE("crc32c: known answers of RFC 3720 B.4, every version") {
  std::vector<std::byte> zeros(32), ones(32, std::byte{0xFF}), rising(32), falling(32);
  for (size_t i = 0; i < 32; ++i) {
    rising[i] = static_cast<std::byte>(i);
    falling[i] = static_cast<std::byte>(31 - i);
  }
  // The iSCSI SCSI Read (10) command of the same appendix.
  std::vector<std::byte> command(48);
  command[0] = std::byte{0x01};
  command[1] = std::byte{0xC0};
  command[16] = command[27] = std::byte{0x14};
  command[22] = std::byte{0x04};
  command[31] = std::byte{0x18};
  command[32] = std::byte{0x28};
  command[40] = std::byte{0x02};
  for (const Version crc : versions()) {
    CHECK(crc(zeros) == 0x8A9136AA);
    CHECK(crc(ones) == 0x62A8AB43);
    CHECK(crc(rising) == 0x46DD794E);
    CHECK(crc(falling) == 0x113FDB5C);
    CHECK(crc(command) == 0xD9963A56);
    CHECK(crc({}) == 0);
    CHECK(crc(std::as_bytes(std::span(std::string_view("123456789")))) == 0xE3069283);
  }
}

TEST_CASE("crc32c: every version agrees with the definition for each length and misalignment") {
  const std::vector<std::byte> data = random_bytes(600);
  const std::vector<Version> all = versions();
  for (size_t offset = 0; offset < 16; ++offset) {
    for (size_t length = 0; length < 100; ++length) {
      const auto part = std::span(data).subspan(offset, length);
      const uint32_t expected = bitwise(part);
      for (const Version crc : all) REQUIRE(crc(part) == expected);
    }
    const auto long_part = std::span(data).subspan(offset);
    for (const Version crc : all) CHECK(crc(long_part) == bitwise(long_part));
  }
}

TEST_CASE("crc32c: the masked checksum is rotated and shifted as TFRecord files hold it") {
  // The first record's length in test/data/io/plain.tfrecord, and the checksum TensorFlow wrote.
  const std::vector<std::byte> length = {std::byte{0x49}, std::byte{0x01}, {}, {}, {}, {}, {}, {}};
  CHECK(masked_crc32c(length) == 0xFB9ED530);
}
