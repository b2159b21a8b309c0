#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "io/decode.h"

namespace mbconv::bench {

// Noise with the spectrum of photographs: its amplitude falls as 1 / frequency, brightness varies
// more than colour, and many pixels are saturated at neither end. A pure function of the arguments.
io::Image natural_noise(int width, int height, uint64_t number);

// A baseline JPEG with half the columns and rows of colour (4:2:0).
std::vector<std::byte> encode_jpeg(const io::Image& image);

// Writes `count` such JPEGs of about 500 x 375 pixels as records of the recipe's keys, to `path`.
void write_natural_records(const std::string& path, int count);

}  // namespace mbconv::bench
