#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mbconv::io {

// Grey pictures of an IDX file (the format of MNIST and Fashion-MNIST): 8 bit, [count, height,
// width].
struct IdxImages {
  int count = 0, height = 0, width = 0;
  std::vector<uint8_t> pixels;
};

// Both read plain or gzip files. Throw Error naming the file and what is wrong with it.
IdxImages read_idx_images(const std::string& path);
std::vector<uint8_t> read_idx_labels(const std::string& path);

}  // namespace mbconv::io
