#include "bench/pictures.h"

#include <algorithm>
#include <cmath>

#include "io/example.h"
#include "io/tfrecord.h"
#include "lib/error.h"
#include "lib/rng.h"

#define STBI_WRITE_NO_STDIO
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

namespace mbconv::bench {
namespace {

using Plane = std::vector<float>;

size_t index(int x, int y, int width) {
  return static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(x);
}

// Adds noise of one octave: a lattice of random values `cell` pixels apart, smooth between them.
void add_octave(Plane& plane, int width, int height, int cell, float amplitude, Rng& rng) {
  const int columns = width / cell + 2, rows = height / cell + 2;
  Plane lattice(index(0, rows, columns));
  for (float& value : lattice) value = amplitude * rng.uniform(-1, 1);
  const auto smooth = [cell](int at) {
    const float t = static_cast<float>(at % cell) / static_cast<float>(cell);
    return t * t * (3 - 2 * t);
  };
  for (int y = 0; y < height; ++y) {
    const float* const top = &lattice[index(0, y / cell, columns)];
    const float* const bottom = top + columns;
    const float down = smooth(y);
    for (int x = 0; x < width; ++x) {
      const int i = x / cell;
      const float left = top[i] + (bottom[i] - top[i]) * down;
      const float right = top[i + 1] + (bottom[i + 1] - top[i + 1]) * down;
      plane[index(x, y, width)] += left + (right - left) * smooth(x);
    }
  }
}

// Equal amplitude in each octave is what falls as 1 / frequency in two dimensions. The finest are
// damped, as by a lens.
Plane noise(int width, int height, float amplitude, int finest, Rng& rng) {
  Plane plane(index(0, height, width));
  for (int cell = finest; cell <= 256; cell *= 2) {
    const float damped = cell == 1 ? 0.5f : cell == 2 ? 0.8f : 1.0f;
    add_octave(plane, width, height, cell, damped * amplitude, rng);
  }
  return plane;
}

}  // namespace

io::Image natural_noise(int width, int height, uint64_t number) {
  Rng rng(17, 0, number, Purpose::synthetic);
  const float contrast = rng.uniform(15, 45);
  const Plane brightness = noise(width, height, contrast, 1, rng);
  const Plane blue = noise(width, height, 0.4f * contrast, 4, rng);
  const Plane red = noise(width, height, 0.4f * contrast, 4, rng);
  io::Image image{width, height, {}};
  image.pixels.reserve(3 * brightness.size());
  const auto add = [&image](float value) {
    image.pixels.push_back(static_cast<uint8_t>(std::clamp(value, 0.0f, 255.0f)));
  };
  for (size_t i = 0; i < brightness.size(); ++i) {
    const float y = 120 + brightness[i];
    add(y + 1.402f * red[i]);
    add(y - 0.344f * blue[i] - 0.714f * red[i]);
    add(y + 1.772f * blue[i]);
  }
  return image;
}

std::vector<std::byte> encode_jpeg(const io::Image& image) {
  constexpr int kQuality = 90;
  std::vector<std::byte> bytes;
  const auto append = [](void* to, void* data, int size) {
    const auto* from = static_cast<const std::byte*>(data);
    auto& out = *static_cast<std::vector<std::byte>*>(to);
    out.insert(out.end(), from, from + size);
  };
  const int written = stbi_write_jpg_to_func(append, &bytes, image.width, image.height, 3,
                                             image.pixels.data(), kQuality);
  require(written != 0, "cannot encode a JPEG of ", image.width, " x ", image.height);
  return bytes;
}

void write_natural_records(const std::string& path, int count) {
  constexpr std::pair<int, int> kSizes[] = {{500, 375}, {500, 333}, {375, 500}, {500, 400},
                                            {480, 360}, {333, 500}, {500, 375}, {512, 384}};
  io::RecordWriter writer(path);
  for (int i = 0; i < count; ++i) {
    const auto [width, height] = kSizes[static_cast<size_t>(i) % std::size(kSizes)];
    const auto jpeg = encode_jpeg(natural_noise(width, height, static_cast<uint64_t>(i)));
    writer.write(io::make_example(
        {{"image", std::vector<io::Bytes>{jpeg}}, {"label", std::vector<int64_t>{i % 1000}}}));
  }
  writer.close();
}

}  // namespace mbconv::bench
