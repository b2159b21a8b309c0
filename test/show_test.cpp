// `records show` beside the batches of a training run with the same options.

#include <cmath>
#include <iostream>
#include <set>
#include <sstream>

#include "bin/records_commands.h"
#include "bin/train_options.h"
#include "test/loader_support.h"

using namespace mbconv;
using namespace mbconv::bin;
using namespace mbconv::io_test;

namespace {

using Words = std::vector<std::string>;

constexpr int kSize = 20;

// The options of `train`, as a user gives them.
TrainArgs train_args(const std::string& data, Words words) {
  TrainArgs args;
  Options app("", "train");
  add_train_options(app, args);
  words.insert(words.end(), {"--train-data", data, "--batch", "4"});
  app.parse(words);
  return args;
}

// What goes to standard output while it lives.
class Printed {
 public:
  Printed() : before_(std::cout.rdbuf(text_.rdbuf())) {}
  ~Printed() { std::cout.rdbuf(before_); }
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
  std::streambuf* before_;
};

struct Shown {
  Image picture;
  std::string text;
};

Shown show(const std::string& data, Words words) {
  const ScratchFolder folder;
  const std::string png = folder / "x.png";
  words.insert(words.begin(), "show");
  words.insert(words.end(), {"--data", data, "--resolution", std::to_string(kSize), "--out", png});
  Options app("", "records");
  const Command command = add_show(app);
  app.parse(words);
  const Printed printed;
  const int status = command.run();
  REQUIRE(status == 0);
  return {decode_image(read_file(png)), printed.text()};
}

Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// The largest distance of a PNG's values from those of the network's input, taken back to 0..255.
double distance(const Image& png, std::span<const float> input, const Normalisation& n) {
  REQUIRE(png.pixels.size() == input.size());
  double largest = 0;
  for (size_t i = 0; i < input.size(); ++i) {
    const size_t c = i % 3;
    const double value = double{input[i]} * double{n.stddev[c]} + double{n.mean[c]};
    largest = std::max(largest, std::abs(std::clamp(value, 0.0, 255.0) - png.pixels[i]));
  }
  return largest;
}

// Goes through two epochs of a run and more, and has every picture of every batch shown by its
// record's number and by its place in the order. Records are labelled by their numbers.
void compare(const Words& order, int shard, int shards) {
  const Records data;
  const TrainArgs args =
      train_args(data.pattern(),
                 order + Words{"--shard", std::to_string(shard) + "/" + std::to_string(shards)});
  const LoaderOptions options = loader_options(args, kSize, kRecords);
  const io::RecordSet records =
      open_records(args.train_data, args.records, OnDamage::stop, options.shuffle);
  Workers workers(3);
  Loader loader(records, workers, options);
  const int64_t samples = 2 * kRecords / shards + 3;
  std::set<std::string> pictures;
  for (int64_t s = 0; s < samples;) {
    const Batch batch = loader.next();
    REQUIRE(batch.count == 4);
    for (size_t i = 0; i < 4; ++i, ++s) {
      const int64_t number = s * shards + shard;
      const std::string epoch = std::to_string(number / kRecords);
      const std::string place = std::to_string(number % kRecords);
      const std::string record = std::to_string(batch.labels[i]);
      INFO("record ", record, ", place ", place, " of epoch ", epoch);
      const Words words = order + Words{"--epoch", epoch};
      const Shown by_record = show(data.pattern(), words + Words{"--index", record});
      const Shown by_place = show(data.pattern(), words + Words{"--sample", place});
      check_names(by_record.text, "record " + record + " (", "label " + record + ",",
                  "sample " + place + " of epoch " + epoch + ":");
      check_names(by_place.text, "record " + record + " (");
      CHECK(by_place.picture.pixels == by_record.picture.pixels);
      const size_t values = by_record.picture.pixels.size();
      CHECK(distance(by_record.picture, batch.images.subspan(i * values, values),
                     options.normalisation) <= 0.5 + 1e-3);
      pictures.insert(to_text(std::as_bytes(std::span(by_record.picture.pixels))));
    }
    REQUIRE(batch.first_sample + 4 == s);
  }
  // Every sample is a picture of its own: nothing above can hold for a constant.
  CHECK(static_cast<int64_t>(pictures.size()) >= samples);
}

}  // namespace

TEST_CASE("records show writes the very pictures that training batches have, in any order") {
  compare({"--seed", "7"}, 0, 1);
  compare({"--seed", "8", "--shuffle", "off", "--rotation-degrees", "90"}, 0, 1);
  compare({"--shuffle", "block", "--shuffle-block", "3", "--shuffle-window", "9"}, 0, 1);
}

TEST_CASE("records show writes the very pictures that the batches of each process have") {
  for (const int shard : {0, 1, 2}) {
    compare({"--seed", "7"}, shard, 3);
    compare({"--shuffle", "block", "--shuffle-block", "3", "--shuffle-window", "9"}, shard, 3);
  }
}

TEST_CASE("records show of another seed, epoch or record is another picture") {
  const Records data;
  const auto of = [&](const char* seed, const char* epoch, const char* record) {
    return show(data.pattern(), {"--seed", seed, "--epoch", epoch, "--index", record})
        .picture.pixels;
  };
  const auto picture = of("7", "1", "5");
  CHECK(picture == of("7", "1", "5"));
  CHECK(picture != of("8", "1", "5"));
  CHECK(picture != of("7", "2", "5"));
  CHECK(picture != of("7", "1", "6"));
}
