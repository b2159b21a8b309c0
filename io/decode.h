#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace mbconv::io {

// An 8-bit RGB picture, rows from the top, [height, width, 3].
struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;
};

// Decodes JPEG, PNG, BMP or GIF (first frame) to 3 channels; grey is replicated, alpha dropped,
// EXIF rotation ignored as TensorFlow does. Throws Error with the decoder's reason, or when a side
// is longer than `max_side` pixels (read from the header, before any memory is taken).
Image decode_image(std::span<const std::byte> encoded, int max_side = 10000);

// Width and height from the header alone. Throws Error as decode_image does.
struct ImageSize {
  int width, height;
};
ImageSize image_size(std::span<const std::byte> encoded);

// Encodes as PNG.
std::vector<std::byte> encode_png(const Image& image);

}  // namespace mbconv::io
