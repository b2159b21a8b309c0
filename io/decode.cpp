#include "io/decode.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "io/kept_memory.h"
#include "lib/error.h"

// Zeroed memory: a JPEG may skip parts of its picture, and stb_image would return whatever the
// memory held before.
#define STBI_MALLOC(size) mbconv::io::kept_allocate(size)
#define STBI_REALLOC(pointer, size) mbconv::io::kept_reallocate(pointer, size)
#define STBI_FREE(pointer) mbconv::io::kept_free(pointer)
// Damaged data is an Error in every build, never an abort.
#define STBI_ASSERT(condition) static_cast<void>(0)
#define STBI_NO_STDIO
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
// At a marker within the last code of a scan, 2.27 shifts a byte that is 0 by up to 40 bits, and of
// a first IDAT chunk without bytes it copies none to a null pointer; neither has an effect on x86,
// and the fuzzer would find nothing else.
#ifdef __clang__
#pragma clang attribute push(__attribute__((no_sanitize("shift-exponent", "nonnull-attribute"))), \
                             apply_to = function)
#endif
#include <stb_image.h>
#ifdef __clang__
#pragma clang attribute pop
#endif

#define STBI_WRITE_NO_STDIO
#define STBIW_ASSERT(condition) static_cast<void>(0)
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

namespace mbconv::io {
namespace {

using Bytes = std::span<const std::byte>;

struct FreeDecoded {
  void operator()(stbi_uc* pixels) const { stbi_image_free(pixels); }
};
struct FreeEncoded {
  void operator()(unsigned char* bytes) const { std::free(bytes); }
};

// The reason is thread-local. Some paths of the GIF and PNG decoders fail without one.
const char* stb_reason() {
  const char* reason = stbi_failure_reason();
  return reason == nullptr || *reason == '\0' ? "damaged data" : reason;
}

// What stb_image reads from. Past the end it goes on with zeros, and a BMP or GIF cut short would
// pass: so the attempt is noted.
struct Source {
  Bytes rest;
  bool past_end = false;
};

Bytes advance(void* source, int count) {
  auto& [rest, past_end] = *static_cast<Source*>(source);
  const size_t taken = std::min(rest.size(), static_cast<size_t>(count));
  // A buffer half filled is no read past the end; an empty one is.
  past_end = past_end || taken == 0;
  const Bytes bytes = rest.first(taken);
  rest = rest.subspan(taken);
  return bytes;
}

constexpr stbi_io_callbacks kSourceCallbacks = {
    .read = [](void* source, char* data, int size) -> int {
      const Bytes bytes = advance(source, size);
      std::memcpy(data, bytes.data(), bytes.size());
      return static_cast<int>(bytes.size());
    },
    .skip =
        [](void* source, int count) {
          auto* from = static_cast<Source*>(source);
          from->past_end = from->past_end || from->rest.size() < static_cast<size_t>(count);
          if (!from->rest.empty()) advance(source, count);
        },
    .eof = [](void* source) -> int { return static_cast<Source*>(source)->rest.empty(); },
};

// Past the end, zeros, as stb_image reads it.
size_t byte_at(Bytes data, size_t at) {
  return at < data.size() ? std::to_integer<size_t>(data[at]) : 0;
}

bool starts_with(Bytes data, std::string_view signature) {
  return data.size() >= signature.size() &&
         std::memcmp(data.data(), signature.data(), signature.size()) == 0;
}

// stb_image names a critical PNG chunk that it does not know in a buffer shared by all threads, and
// meets one (of zeros) wherever a file is cut short: such files are refused before it sees them.
void check_png_chunks(Bytes png) {
  constexpr size_t kHead = 8, kCrc = 4;  // a chunk: {u32 length, type}, data, CRC
  for (size_t at = 8;;) {
    require(at + kHead <= png.size(), "cannot decode the PNG: its data ends before the chunk IEND");
    const std::string_view type(reinterpret_cast<const char*>(png.data()) + at + 4, 4);
    if (type == "IEND") return;
    const bool ancillary = (type[0] & 0x20) != 0;
    require(ancillary || type == "IHDR" || type == "PLTE" || type == "IDAT" || type == "CgBI",
            "cannot decode the PNG: unknown critical chunk at byte ", at);
    size_t length = 0;
    for (size_t i = 0; i < 4; ++i) length = length << 8 | byte_at(png, at + i);
    require(at + kHead + length + kCrc <= png.size(),
            "cannot decode the PNG: its data ends within the chunk at byte ", at);
    at += kHead + length + kCrc;
  }
}

// The tables of a DHT segment: {class and number, u8 number of codes of each length 1 .. 16},
// codes.
void check_huffman_tables(Bytes jpeg, size_t at, ptrdiff_t length) {
  constexpr size_t kHead = 17;
  while (length > 0) {
    size_t codes = 0;
    for (size_t i = 1; i < kHead; ++i) codes += byte_at(jpeg, at + i);
    require(codes <= 256, "cannot decode the JPEG: the Huffman table at byte ", at, " has ", codes,
            " codes, more than 256");
    at += kHead + codes;
    length -= static_cast<ptrdiff_t>(kHead + codes);
  }
}

// stb_image before 2.28 writes past a Huffman table of more than 256 codes: such files are refused
// before it sees them.
void check_jpeg_tables(Bytes jpeg) {
  constexpr size_t kFill = 0xff, kStuffed = 0x00, kFirstRestart = 0xd0, kStart = 0xd8;
  constexpr size_t kEnd = 0xd9, kHuffmanTables = 0xc4;
  for (size_t at = 0; at < jpeg.size();) {
    const void* next = std::memchr(jpeg.data() + at, 0xff, jpeg.size() - at);
    if (next == nullptr) return;
    at = static_cast<size_t>(static_cast<const std::byte*>(next) - jpeg.data());
    while (byte_at(jpeg, at) == kFill) ++at;
    const size_t marker = byte_at(jpeg, at++);
    if (marker == kEnd) return;
    // Markers alone. Scans are passed over like what may stand between segments.
    if (marker == kStuffed || (kFirstRestart <= marker && marker <= kStart)) continue;
    const size_t length = byte_at(jpeg, at) << 8 | byte_at(jpeg, at + 1);
    if (marker == kHuffmanTables) {
      check_huffman_tables(jpeg, at + 2, static_cast<ptrdiff_t>(length) - 2);
    }
    at += length;
  }
}

void check_structure(Bytes encoded) {
  if (starts_with(encoded, "\x89PNG\r\n\x1a\n")) check_png_chunks(encoded);
  if (starts_with(encoded, "\xff")) check_jpeg_tables(encoded);
}

// Without the fill bytes that may precede a JPEG's first marker, but for one: where they fill
// stb_image's buffer, it goes on with other bytes than those that were checked.
Bytes without_fill(Bytes encoded) {
  while (starts_with(encoded, "\xff\xff")) encoded = encoded.subspan(1);
  return encoded;
}

// Two pixels a step; the last bytes of a step are overwritten by the next.
void drop_alpha(const uint8_t* rgba, size_t count, uint8_t* rgb) {
  size_t i = 0;
  for (; i + 3 <= count; i += 2) {
    uint64_t pair;
    std::memcpy(&pair, rgba + 4 * i, sizeof(pair));
    pair = (pair & 0xff'ffff) | (pair >> 8 & 0xffff'ff00'0000);
    std::memcpy(rgb + 3 * i, &pair, sizeof(pair));
  }
  for (; i < count; ++i) std::memcpy(rgb + 3 * i, rgba + 4 * i, 3);
}

}  // namespace

ImageSize image_size(Bytes encoded) {
  require(!encoded.empty(), "cannot decode the picture: it has no bytes");
  require(encoded.size() <= INT_MAX, "cannot decode the picture: its ", encoded.size(),
          " bytes are more than ", INT_MAX);
  check_structure(encoded);
  ImageSize size{};
  int channels = 0;
  const bool known = stbi_info_from_memory(reinterpret_cast<const stbi_uc*>(encoded.data()),
                                           static_cast<int>(encoded.size()), &size.width,
                                           &size.height, &channels) != 0;
  require(known, "not a readable JPEG, PNG, BMP or GIF: ", stb_reason());
  require(size.width > 0 && size.height > 0, "cannot decode the picture: its size is ", size.width,
          " x ", size.height);
  return size;
}

void decode_image(Bytes encoded, int max_side, Image& image) {
  const ImageSize size = image_size(encoded);
  require(std::max(size.width, size.height) <= max_side, "the picture is ", size.width, " x ",
          size.height, " pixels, more than the ", max_side, " a side that are allowed");
  Source source{without_fill(encoded)};
  int channels = 0;
  // With 4 channels, as only they are converted to RGB with vector instructions.
  const std::unique_ptr<stbi_uc, FreeDecoded> rgba(stbi_load_from_callbacks(
      &kSourceCallbacks, &source, &image.width, &image.height, &channels, STBI_rgb_alpha));
  require(rgba != nullptr, "cannot decode the picture",
          source.past_end ? ", its data ends early: " : ": ", stb_reason());
  require(!source.past_end, "cannot decode the picture: its data ends early");
  const size_t count = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
  image.pixels.resize(3 * count);
  drop_alpha(rgba.get(), count, image.pixels.data());
}

Image decode_image(Bytes encoded, int max_side) {
  Image image;
  decode_image(encoded, max_side, image);
  return image;
}

std::string_view image_format(Bytes encoded) {
  if (starts_with(encoded, "\xff")) return "JPEG";
  if (starts_with(encoded, "\x89")) return "PNG";
  if (starts_with(encoded, "G")) return "GIF";
  return starts_with(encoded, "B") ? "BMP" : "";
}

std::vector<std::byte> encode_png(int width, int height, int channels,
                                  std::span<const uint8_t> pixels) {
  require(width > 0 && height > 0 && channels >= 1 && channels <= 4 &&
              pixels.size() == static_cast<size_t>(channels) * static_cast<size_t>(width) *
                                   static_cast<size_t>(height),
          "a picture of ", width, " x ", height, " with ", channels, " channels cannot have ",
          pixels.size(), " values");
  // stb_image_write counts bytes in an int, and compressed data may be a little longer.
  require(pixels.size() <= INT_MAX / 2, "a picture of ", width, " x ", height,
          " is too large to write as PNG");
  int length = 0;
  const std::unique_ptr<unsigned char, FreeEncoded> png(
      stbi_write_png_to_mem(pixels.data(), channels * width, width, height, channels, &length));
  require(png != nullptr, "out of memory while writing a PNG");
  const auto* bytes = reinterpret_cast<const std::byte*>(png.get());
  return {bytes, bytes + length};
}

std::vector<std::byte> encode_png(const Image& image) {
  return encode_png(image.width, image.height, 3, image.pixels);
}

}  // namespace mbconv::io
