#include "io/shard_writer.h"

#include <cstdio>
#include <filesystem>

#include "io/example.h"
#include "lib/error.h"

namespace mbconv::io {
namespace {

std::vector<Bytes> text(const std::string& value) {
  return {std::as_bytes(std::span(value))};
}
std::vector<int64_t> number(int64_t value) {
  return {value};
}

}  // namespace

ShardWriter::ShardWriter(const std::string& folder, const std::string& name, int shards) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(!error, "cannot create the folder ", folder, ": ", error.message());
  for (int i = 0; i < shards; ++i) {
    char suffix[64];
    std::snprintf(suffix, sizeof suffix, "-%05d-of-%05d.tfrecord", i, shards);
    writers_.push_back(
        std::make_unique<RecordWriter>((std::filesystem::path(folder) / (name + suffix)).string()));
  }
}

void ShardWriter::write(const PictureRecord& r) {
  const std::vector<float> no_boxes;
  writers_[next_]->write(make_example({
      {"image", std::vector<Bytes>{r.encoded}},
      {"label", number(r.label)},
      {"height", number(r.height)},
      {"width", number(r.width)},
      {"channels", number(r.channels)},
      {"colorspace", text(r.colorspace)},
      {"img_format", text(r.format)},
      {"bbox_xmin", no_boxes},
      {"bbox_xmax", no_boxes},
      {"bbox_ymin", no_boxes},
      {"bbox_ymax", no_boxes},
      {"text", text(r.text)},
      {"filename", text(r.filename)},
  }));
  next_ = (next_ + 1) % writers_.size();
}

void ShardWriter::close() {
  for (const auto& writer : writers_) writer->close();
}

}  // namespace mbconv::io
