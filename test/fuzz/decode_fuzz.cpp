// Bytes as an encoded picture: it is decoded, or refused with an Error; the header's size is the
// picture's.

#include <algorithm>
#include <cstdlib>

#include "io/decode.h"
#include "lib/error.h"

using namespace mbconv;
using namespace mbconv::io;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int kMostSide = 64;  // larger ones only take time
  const auto encoded = std::as_bytes(std::span(data, size));
  try {
    const ImageSize header = image_size(encoded);
    const Image image = decode_image(encoded, kMostSide);
    const auto pixels = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
    if (image.width != header.width || image.height != header.height ||
        image.pixels.size() != 3 * pixels || std::max(image.width, image.height) > kMostSide) {
      std::abort();
    }
  } catch (const Error&) {
  }
  return 0;
}
