#include "io/decode.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "io/safetensors.h"
#include "lib/error.h"
#include "lib/rng.h"
#include "test/io_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

using Encoded = std::vector<std::byte>;

const std::string kFolder = "test/data/augment/";
const std::string kExact[] = {"rgb.png",        "grey.png",       "bilevel.png", "palette.png",
                              "rgba.png",       "rgb16.png",      "grey16.png",  "rgb.bmp",
                              "grey_alpha.png", "two_frames.gif", "row.png",     "png_named.jpeg"};
const std::string kJpegs[] = {"444.jpg",    "420.jpg",  "422_restarts.jpg", "progressive.jpg",
                              "grey.jpg",   "cmyk.jpg", "turned.jpg",       "ycck.jpg",
                              "column.jpg", "row.jpg"};

Encoded file(const std::string& name) {
  return read_file(kFolder + name);
}

struct Difference {
  double mean = 0, largest = 0;
};

// Of a picture's first columns from what the program that wrote it reads back.
Difference difference(const Image& image, const NamedTensor& expected, int columns) {
  REQUIRE(expected.shape == std::vector<int64_t>{image.height, image.width, 3});
  Difference d;
  for (size_t i = 0; i < image.pixels.size(); ++i) {
    if (static_cast<int>(i / 3) % image.width >= columns) continue;
    const double error = std::abs(image.pixels[i] - expected.values<float>()[i]);
    d.mean += error / (3.0 * columns * image.height);
    d.largest = std::max(d.largest, error);
  }
  return d;
}

std::string decode_error(const Encoded& encoded, int max_side = 10000) {
  return error_of([&] { decode_image(encoded, max_side); });
}

std::vector<std::string> all_files() {
  std::vector<std::string> names(std::begin(kExact), std::end(kExact));
  names.insert(names.end(), std::begin(kJpegs), std::end(kJpegs));
  return names;
}

}  // namespace

TEST_CASE("decode: PNG, BMP and GIF give the pixels that were written") {
  const TensorFile expected = read_safetensors(kFolder + "decode.safetensors");
  for (const std::string& name : kExact) {
    CAPTURE(name);
    const NamedTensor* pixels = expected.find(name);
    REQUIRE(pixels != nullptr);
    const Image image = decode_image(file(name));
    CHECK(difference(image, *pixels, image.width).largest == 0);
  }
}

// The inverse transforms round differently. Where colour has half the columns (4:2:2), stb_image
// swaps the weights of the last two.
TEST_CASE("decode: JPEG agrees with libjpeg to 0.2 in the mean and 3 at most") {
  const TensorFile expected = read_safetensors(kFolder + "decode.safetensors");
  for (const std::string& name : kJpegs) {
    CAPTURE(name);
    const NamedTensor* pixels = expected.find(name);
    REQUIRE(pixels != nullptr);
    const Image image = decode_image(file(name));
    const int columns = image.width - (name.starts_with("422") ? 2 : 0);
    const Difference d = difference(image, *pixels, columns);
    CHECK(d.mean <= 0.2);
    CHECK(d.largest <= 3);
  }
}

TEST_CASE("image_format: the first byte tells") {
  for (const auto& [name, format] : {std::pair{"444.jpg", "JPEG"},
                                     {"rgb.png", "PNG"},
                                     {"png_named.jpeg", "PNG"},
                                     {"two_frames.gif", "GIF"},
                                     {"rgb.bmp", "BMP"}}) {
    CHECK(image_format(file(name)) == format);
  }
  CHECK(image_format(to_bytes("text")).empty());
  CHECK(image_format({}).empty());
}

TEST_CASE("decode: the size comes from the header alone") {
  Encoded jpeg = file("420.jpg");
  jpeg.resize(jpeg.size() / 2 + 100);
  const ImageSize size = image_size(jpeg);
  CHECK(size.width == 33);
  CHECK(size.height == 19);
}

TEST_CASE("decode: a side longer than allowed is refused by the header") {
  CHECK(decode_image(file("rgb.png"), 17).width == 17);
  CHECK(decode_error(file("rgb.png"), 16) ==
        "the picture is 17 x 13 pixels, more than the 16 a side that are allowed");
}

TEST_CASE("decode: more than 10000 pixels a side are refused unless allowed") {
  const int widths[] = {10001, 1};
  for (const int width : widths) {
    const int height = 10002 - width;
    const std::vector<uint8_t> grey(10001, 77);
    const Encoded png = encode_png(width, height, 1, grey);
    check_names(decode_error(png), "10001", "more than the 10000 a side that are allowed");
    const Image image = decode_image(png, 10001);
    CHECK(image.width == width);
    CHECK(image.pixels == std::vector<uint8_t>(size_t{3} * 10001, 77));
  }
}

TEST_CASE("decode: a picture decoded into the memory of another is the same") {
  Image kept;
  for (int round = 0; round < 2; ++round) {
    for (const std::string& name : all_files()) {
      CAPTURE(name);
      const Image fresh = decode_image(file(name));
      decode_image(file(name), 10000, kept);
      CHECK(kept.width == fresh.width);
      CHECK(kept.height == fresh.height);
      CHECK(kept.pixels == fresh.pixels);
    }
  }
}

TEST_CASE("decode: a header that promises a huge picture is refused as well") {
  Encoded png = file("rgb.png");
  png[17] = std::byte{0x10};  // 2^20 + 17 pixels wide
  check_names(decode_error(png), "more than the 10000 a side");
  png[21] = std::byte{0x10};  // and high
  check_names(decode_error(png), "not a readable");
}

TEST_CASE("decode: no bytes, garbage and unknown formats are errors with the reason") {
  check_names(decode_error({}), "it has no bytes");
  Encoded garbage(1000);
  Rng rng(1, 0, 0, Purpose::synthetic);
  for (std::byte& b : garbage) b = static_cast<std::byte>(rng.next());
  CHECK(decode_error(garbage) == "not a readable JPEG, PNG, BMP or GIF: unknown image type");
  check_names(decode_error(to_bytes("P6 1 1 255 abc")), "unknown image type");
}

TEST_CASE("decode: a picture cut short anywhere is an error, never a partial picture") {
  for (const std::string& name : all_files()) {
    CAPTURE(name);
    const Encoded whole = file(name);
    const Image image = decode_image(whole);
    for (size_t size = 0; size < whole.size(); ++size) {
      CAPTURE(size);
      try {
        const Image cut = decode_image(std::span(whole).first(size));
        // Only what follows the first frame may be missing.
        REQUIRE(name == "two_frames.gif");
        REQUIRE(size > whole.size() / 3);
        REQUIRE(cut.pixels == image.pixels);
      } catch (const Error& e) {
        REQUIRE(!std::string(e.what()).ends_with(": "));
      }
    }
  }
}

TEST_CASE("decode: an unknown critical PNG chunk is named by its place") {
  Encoded png = file("rgb.png");
  png[37] = std::byte{'X'};  // the type of the chunk after IHDR
  CHECK(decode_error(png) == "cannot decode the PNG: unknown critical chunk at byte 33");
}

TEST_CASE("decode: a Huffman table with more codes than it may have is refused") {
  for (const std::string& name : kJpegs) {
    CAPTURE(name);
    Encoded jpeg = file(name);
    const std::byte segment[] = {std::byte{0xff}, std::byte{0xc4}};
    auto at = std::search(jpeg.begin(), jpeg.end(), std::begin(segment), std::end(segment));
    REQUIRE(jpeg.end() - at > 40);
    for (int i = 0; i < 16; ++i) at[5 + i] = std::byte{17};  // 272 codes
    check_names(decode_error(jpeg), "has 272 codes, more than 256");
  }
}

TEST_CASE("decode: fill bytes before a JPEG change nothing, however many") {
  const Encoded jpeg = file("420.jpg");
  const Image expected = decode_image(jpeg);
  for (const size_t fill : {size_t{1}, size_t{126}, size_t{127}, size_t{132}, size_t{1000}}) {
    Encoded filled(fill, std::byte{0xff});
    filled.insert(filled.end(), jpeg.begin(), jpeg.end());
    CHECK(decode_image(filled).pixels == expected.pixels);
  }
}

TEST_CASE("decode: damaged bytes give an error or a picture of the stated size") {
  Rng rng(2, 0, 0, Purpose::synthetic);
  int errors = 0, pictures = 0;
  for (const std::string& name : all_files()) {
    CAPTURE(name);
    const Encoded whole = file(name);
    for (int round = 0; round < 300; ++round) {
      Encoded damaged = whole;
      for (uint64_t hits = 1 + rng.below(4); hits > 0; --hits) {
        damaged[rng.below(damaged.size())] = static_cast<std::byte>(rng.next());
      }
      try {
        const Image image = decode_image(damaged, 300);
        REQUIRE(image.pixels.size() == size_t{3} * static_cast<size_t>(image.width * image.height));
        // Nothing of it depends on what the memory held before, except that stb_image leaves
        // colours undefined which a PNG's palette does not name.
        if (name != "palette.png") REQUIRE(decode_image(damaged, 300).pixels == image.pixels);
        ++pictures;
      } catch (const Error&) {
        ++errors;
      }
    }
  }
  CHECK(errors > 500);
  CHECK(pictures > 500);
}

TEST_CASE("decode: threads get their own reasons and the same pixels") {
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&wrong, t] {
      const Encoded whole = file(t % 2 == 0 ? "444.jpg" : "rgb.png");
      const Encoded damaged(whole.begin(),
                            whole.begin() + static_cast<ptrdiff_t>(whole.size()) - 2);
      const std::string reason = decode_error(damaged);
      const Image image = decode_image(whole);
      for (int i = 0; i < 50; ++i) {
        if (decode_error(damaged) != reason) ++wrong;
        if (decode_image(whole).pixels != image.pixels) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("encode_png: the decoder reads back what was written") {
  Rng rng(3, 0, 0, Purpose::synthetic);
  for (const auto& [width, height] : {std::pair{1, 1}, {7, 5}, {64, 33}}) {
    Image image{width, height,
                std::vector<uint8_t>(size_t{3} * static_cast<size_t>(width * height))};
    for (uint8_t& v : image.pixels) v = static_cast<uint8_t>(rng.next());
    const Image back = decode_image(encode_png(image));
    CHECK(back.width == width);
    CHECK(back.height == height);
    CHECK(back.pixels == image.pixels);
  }
}

TEST_CASE("encode_png: one channel is written as grey") {
  const std::vector<uint8_t> grey = {0, 50, 100, 150, 200, 250};
  const std::vector<std::byte> png = encode_png(3, 2, 1, grey);
  CHECK(png[25] == std::byte{0});  // the colour type in IHDR
  const Image image = decode_image(png);
  REQUIRE(image.pixels.size() == 18);
  for (size_t i = 0; i < 18; ++i) CHECK(image.pixels[i] == grey[i / 3]);
}

TEST_CASE("encode_png: a picture whose size and pixels disagree is refused") {
  CHECK_THROWS_AS(encode_png(Image{2, 2, std::vector<uint8_t>(11)}), Error);
  CHECK_THROWS_AS(encode_png(Image{}), Error);
  CHECK_THROWS_AS(encode_png(1, 1, 5, std::vector<uint8_t>(5)), Error);
}
