#include "io/resize.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "lib/error.h"

#define STB_IMAGE_RESIZE_STATIC
#define STB_IMAGE_RESIZE_IMPLEMENTATION
#define STBIR_ASSERT(condition) static_cast<void>(0)
#include <stb_image_resize.h>

#define STBI_WRITE_NO_STDIO
#define STBIW_ASSERT(condition) static_cast<void>(0)
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

namespace mbconv::io {

Image resize_antialiased(const Image& image, int width, int height) {
  require(image.width > 0 && image.height > 0 && width > 0 && height > 0, "a picture of ",
          image.width, " x ", image.height, " cannot be resized to ", width, " x ", height);
  Image out{width, height, {}};
  out.pixels.resize(size_t{3} * static_cast<size_t>(width) * static_cast<size_t>(height));
  const int done = stbir_resize_uint8_generic(
      image.pixels.data(), image.width, image.height, 0, out.pixels.data(), width, height, 0, 3,
      STBIR_ALPHA_CHANNEL_NONE, 0, STBIR_EDGE_CLAMP, STBIR_FILTER_TRIANGLE, STBIR_COLORSPACE_LINEAR,
      nullptr);
  require(done == 1, "out of memory while resizing a picture");
  return out;
}

Image shrink_to(const Image& image, int shorter) {
  require(shorter >= 1, "a picture must keep at least 1 pixel a side, got ", shorter);
  const int side = std::min(image.width, image.height);
  if (side <= shorter) return image;
  const auto scaled = [&](int length) {
    const double exact = static_cast<double>(length) * shorter / side;
    return std::max(1, static_cast<int>(std::lround(exact)));
  };
  return resize_antialiased(image, scaled(image.width), scaled(image.height));
}

std::vector<std::byte> encode_jpeg(const Image& image, int quality) {
  constexpr int kMost = 65535;
  require(image.width > 0 && image.height > 0 && image.width <= kMost && image.height <= kMost,
          "a picture of ", image.width, " x ", image.height, " cannot be written as JPEG");
  require(quality >= 1 && quality <= 100, "the quality of a JPEG is 1 to 100, got ", quality);
  std::vector<std::byte> out;
  const auto append = [](void* to, void* data, int size) {
    const auto* bytes = static_cast<const std::byte*>(data);
    auto& buffer = *static_cast<std::vector<std::byte>*>(to);
    buffer.insert(buffer.end(), bytes, bytes + size);
  };
  const int done = stbi_write_jpg_to_func(append, &out, image.width, image.height, 3,
                                          image.pixels.data(), quality);
  require(done != 0, "cannot write a JPEG of ", image.width, " x ", image.height);
  return out;
}

}  // namespace mbconv::io
