#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace mbconv::io {

// An 8-bit RGB picture, rows from the top, [height, width, 3].
struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;
};

// Decodes JPEG, PNG, BMP or GIF (first frame) to 3 channels: grey is replicated, alpha dropped, the
// upper byte of 16 bits kept, EXIF rotation ignored as TensorFlow does. Throws Error with the
// decoder's reason, when the data ends before the picture does, or when a side is longer than
// `max_side` pixels (read from the header, before any memory is taken). Safe from several threads.
Image decode_image(std::span<const std::byte> encoded, int max_side = 10000);
// The same into the memory of an earlier picture, which saves a page fault for each 4 KiB. After an
// Error, `image` holds nothing of use.
void decode_image(std::span<const std::byte> encoded, int max_side, Image& image);

// Width and height from the header alone. Throws Error as decode_image does.
struct ImageSize {
  int width, height;
};
ImageSize image_size(std::span<const std::byte> encoded);

// "JPEG", "PNG", "GIF" or "BMP" as the first byte tells, "" if none of them.
std::string_view image_format(std::span<const std::byte> encoded);

// Encodes 8-bit values [height, width, channels] as PNG: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
std::vector<std::byte> encode_png(int width, int height, int channels,
                                  std::span<const uint8_t> pixels);
std::vector<std::byte> encode_png(const Image& image);

}  // namespace mbconv::io
