// The picture that training sees.

#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>
#include <memory>

#include "bin/cli.h"
#include "bin/records_commands.h"
#include "bin/train_options.h"
#include "io/atomic_file.h"
#include "io/decode.h"

namespace mbconv::bin {
namespace {

struct ShowArgs {
  std::string data, out;
  int64_t epoch = 0, index = -1, sample = -1;
  int resolution = 224;
  TrainArgs train;  // of which the order, the augmentation and the keys count
};

// Values in 0..255 as a picture; what augmentation has pushed beyond is clipped.
io::Image to_image(const std::vector<float>& values, int size) {
  io::Image image{size, size, std::vector<uint8_t>(values.size())};
  for (size_t i = 0; i < values.size(); ++i) {
    image.pixels[i] = static_cast<uint8_t>(std::clamp(std::lround(values[i]), 0L, 255L));
  }
  return image;
}

// The place of a record in an epoch's order.
size_t place_of(io::EpochOrder& order, int64_t epoch, size_t record) {
  for (size_t p = 0; p < order.records(); ++p) {
    if (order.record(epoch, p) == record) return p;
  }
  throw Error("record ", record, " is in no place of the order");
}

int show(ShowArgs& a) {
  if ((a.index < 0) == (a.sample < 0))
    throw UsageError("one of --index and --sample says which picture");
  const std::vector<std::string> names = read_class_names(a.train.records, 0);
  io::LoaderOptions o = loader_options(a.train, a.resolution, 1 << 30);
  // Values stay in 0..255.
  o.normalisation.mean = {0, 0, 0};
  o.normalisation.stddev = {1, 1, 1};
  const io::RecordSet records =
      open_records(a.data, a.train.records, io::OnDamage::resynchronise, o.shuffle);
  const int64_t wanted = std::max(a.index, a.sample);
  require(wanted < static_cast<int64_t>(records.size()), "there is no ",
          a.index >= 0 ? "record " : "sample ", wanted, ": the files have ", records.size(),
          " records");
  io::EpochOrder order(records.size(), {o.shuffle, o.seed, o.shuffle_block, o.shuffle_window});
  const auto number = a.index >= 0 ? static_cast<size_t>(a.index)
                                   : order.record(a.epoch, static_cast<size_t>(a.sample));
  std::vector<std::byte> record;
  records.read(number, record);
  std::vector<float> values(size_t{3} * static_cast<size_t>(o.size) * static_cast<size_t>(o.size));
  int32_t label = 0;
  try {
    label = io::prepare_sample(record, static_cast<uint32_t>(a.epoch), number, o, values.data());
  } catch (const Error& e) {
    throw Error(records.describe(number), ": ", e.what());
  }
  const std::vector<std::byte> png = io::encode_png(to_image(values, o.size));
  const std::span<const std::byte> bytes(png);
  io::write_atomically(a.out, std::span(&bytes, 1));
  std::cout << "record " << number << " (" << records.describe(number) << "), label "
            << class_label(names, label) << ", sample " << place_of(order, a.epoch, number)
            << " of epoch " << a.epoch << ": " << a.out << '\n';
  return 0;
}

}  // namespace

Command add_show(Options& records) {
  const auto a = std::make_shared<ShowArgs>();
  Options& app = records.add_command(
      "show", "Writes the picture that training makes of a record in an epoch, as PNG");
  app.add("--data", a->data, "Glob of the TFRecord files, as given to --train-data")
      .required()
      .group("Data");
  app.add("--epoch", a->epoch, "Epoch, from 0: the log's epoch 1 is epoch 0")
      .whole(0, 16777215)
      .show_default()
      .group("Data");
  app.add("--index", a->index, "Number of the record over all files, from 0")
      .whole(0, static_cast<uint64_t>(kMaxCount))
      .group("Data");
  app.add("--sample", a->sample, "Or its place in the epoch's order, from 0")
      .whole(0, static_cast<uint64_t>(kMaxCount))
      .group("Data");
  app.add("--seed", a->train.seed, "Of the run")
      .whole(0, std::numeric_limits<uint64_t>::max())
      .show_default()
      .group("Data");
  app.add("--resolution", a->resolution, "Pixels a side of the network's input")
      .whole(1, 65535)
      .show_default()
      .group("Data");
  app.add("--out", a->out, "PNG file to write").required().group("Output");
  add_order_options(app, a->train);
  add_augment_options(app, a->train);
  add_record_options(app, a->train.records);
  return {&app, [a] { return show(*a); }};
}

}  // namespace mbconv::bin
