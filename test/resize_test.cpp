#include "io/resize.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "test/io_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

Image filled(int width, int height, uint8_t value) {
  return {width, height,
          std::vector<uint8_t>(size_t{3} * static_cast<size_t>(width) * static_cast<size_t>(height),
                               value)};
}

// A smooth picture.
Image ramp(int width, int height) {
  Image image = filled(width, height, 0);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      uint8_t* pixel = image.pixels.data() + 3 * (y * width + x);
      pixel[0] = static_cast<uint8_t>(255 * x / width);
      pixel[1] = static_cast<uint8_t>(255 * y / height);
      pixel[2] = 100;
    }
  }
  return image;
}

}  // namespace

TEST_CASE("resize: the shorter side becomes what is asked, the other keeps the proportion") {
  const auto size = [](int width, int height, int shorter) {
    const Image out = shrink_to(filled(width, height, 7), shorter);
    CHECK(out.pixels.size() == size_t{3} * static_cast<size_t>(out.width * out.height));
    return std::pair(out.width, out.height);
  };
  CHECK(size(500, 375, 256) == std::pair(341, 256));
  CHECK(size(375, 500, 256) == std::pair(256, 341));
  CHECK(size(300, 300, 256) == std::pair(256, 256));
  CHECK(size(5000, 2, 1) == std::pair(2500, 1));
  CHECK(size(200, 100, 100) == std::pair(200, 100));
  CHECK(size(20, 10, 100) == std::pair(20, 10));  // never enlarged
}

TEST_CASE("resize: stripes finer than a pixel become their mean, an even picture stays even") {
  Image stripes = filled(256, 64, 0);
  for (size_t i = 0; i < stripes.pixels.size(); ++i) stripes.pixels[i] = i / 3 % 2 == 0 ? 0 : 200;
  const Image small = resize_antialiased(stripes, 64, 16);
  for (int x = 1; x < 63; ++x) CHECK(std::abs(small.pixels[size_t(3 * (8 * 64 + x))] - 100) <= 2);
  for (const uint8_t v : resize_antialiased(filled(100, 80, 77), 33, 21).pixels) CHECK(v == 77);
  check_names(error_of([] { resize_antialiased(filled(2, 2, 0), 0, 1); }), "0 x 1");
}

TEST_CASE("resize: a JPEG that is written is read back nearly as it was") {
  const Image image = ramp(123, 77);
  const Image back = decode_image(encode_jpeg(image, 95));
  REQUIRE(back.width == 123);
  REQUIRE(back.height == 77);
  double error = 0;
  for (size_t i = 0; i < image.pixels.size(); ++i)
    error += std::abs(image.pixels[i] - back.pixels[i]);
  CHECK(error / static_cast<double>(image.pixels.size()) < 2);
  CHECK(encode_jpeg(image, 50).size() < encode_jpeg(image, 95).size());
  check_names(error_of([&] { encode_jpeg(image, 0); }), "quality", "0");
  check_names(error_of([&] { encode_jpeg(Image{}, 90); }), "0 x 0");
}
