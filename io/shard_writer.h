#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/tfrecord.h"

namespace mbconv::io {

// A picture with its label and what the recipe's Example keys say of it.
struct PictureRecord {
  std::span<const std::byte> encoded;
  int64_t label;
  int height, width, channels;
  std::string colorspace, format;  // "RGB", "JPEG", ...
  std::string text, filename;      // class name, where it came from
};

// Writes pictures to FOLDER/NAME-00000-of-0000N.tfrecord, one file after the other in turn, so that
// all shards have nearly the same number of records. Files appear at close(), whole.
class ShardWriter {
 public:
  // Makes the folder if there is none. Throws Error.
  ShardWriter(const std::string& folder, const std::string& name, int shards);
  void write(const PictureRecord& record);
  void close();

 private:
  std::vector<std::unique_ptr<RecordWriter>> writers_;
  size_t next_ = 0;
};

}  // namespace mbconv::io
