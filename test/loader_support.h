#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "io/decode.h"
#include "io/loader.h"
#include "test/io_support.h"

// What the tests of the loader share: small data sets, and batches that outlive the loader.
namespace mbconv::io_test {

using namespace mbconv::io;

inline constexpr int kRecords = 23;

// A picture of its own for each number.
inline Image picture(int number) {
  const int width = 20 + number % 7, height = 31 - number % 5;
  Rng rng(9, 0, static_cast<uint64_t>(number), Purpose::synthetic);
  Image image{width, height, std::vector<uint8_t>(size_t{3} * static_cast<size_t>(width * height))};
  for (uint8_t& v : image.pixels) v = static_cast<uint8_t>(rng.next());
  return image;
}

inline std::vector<std::byte> example(const std::vector<std::byte>& encoded, int64_t label) {
  return make_example({{"image", std::vector<Bytes>{encoded}}, {"label", std::vector{label}}});
}

// A folder with the records 0 .. kRecords - 1, labelled by their numbers, in two files. `change`
// may alter the record of a number.
class Records {
 public:
  using Change = std::function<void(int number, std::vector<std::byte>& record)>;

  explicit Records(const Change& change = {}) {
    int number = 0;
    for (const auto& [file, end] : {std::pair{"a.tfrecord", 9}, {"b.tfrecord", kRecords}}) {
      RecordWriter writer(folder_ / file);
      for (; number < end; ++number) {
        std::vector<std::byte> record = example(encode_png(picture(number)), number);
        if (change) change(number, record);
        writer.write(record);
      }
      writer.close();
    }
  }

  std::string file(const std::string& name) const { return folder_ / name; }
  std::string pattern() const { return folder_ / "*.tfrecord"; }

 private:
  ScratchFolder folder_;
};

inline LoaderOptions small_options() {
  LoaderOptions options;
  options.batch = 4;
  options.size = 16;
  options.classes = kRecords;
  options.seed = 5;
  return options;
}

// A batch that outlives the next one.
struct Copy {
  std::vector<float> images;
  std::vector<int32_t> labels;
  int64_t first_sample;

  explicit Copy(const Batch& b)
      : images(b.images.begin(), b.images.end()),
        labels(b.labels.begin(), b.labels.end()),
        first_sample(b.first_sample) {}
  friend bool operator==(const Copy&, const Copy&) = default;
};

inline std::vector<Copy> batches(Loader& loader, int count) {
  std::vector<Copy> all;
  for (int i = 0; i < count; ++i) all.emplace_back(loader.next());
  return all;
}

inline std::vector<Copy> batches(const LoaderOptions& options, int threads, int count) {
  const Records records;
  const RecordSet set(records.pattern());
  Workers workers(threads);
  Loader loader(set, workers, options);
  return batches(loader, count);
}

inline std::vector<int32_t> labels(const std::vector<Copy>& all) {
  std::vector<int32_t> joined;
  for (const Copy& b : all) joined.insert(joined.end(), b.labels.begin(), b.labels.end());
  return joined;
}

}  // namespace mbconv::io_test
