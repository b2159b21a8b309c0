#include "io/loader.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "lib/error.h"
#include "test/loader_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

// What a layer looks like to the workers: many short items, one run after the other.
void network_step(Workers& workers) {
  std::atomic<int> sum = 0;
  for (int pass = 0; pass < 10; ++pass) {
    workers.run(64, [&sum](int item, int) {
      unsigned x = static_cast<unsigned>(item);
      for (int i = 0; i < 2000; ++i) x = x * 1664525u + 1013904223u;
      sum.fetch_add(static_cast<int>(x & 1), std::memory_order_relaxed);
    });
  }
}

}  // namespace

TEST_CASE("loader: the same batches for 1, 2 and 5 threads, bit for bit") {
  const auto one = batches(small_options(), 1, 15);
  CHECK(batches(small_options(), 2, 15) == one);
  CHECK(batches(small_options(), 5, 15) == one);
}

TEST_CASE("loader: the same batches for any number prepared ahead") {
  LoaderOptions options = small_options();
  const auto three = batches(options, 2, 8);
  for (const int prefetch : {0, 1, 9}) {
    options.prefetch = prefetch;
    CHECK(batches(options, 1, 8) == three);
    CHECK(batches(options, 3, 8) == three);
  }
}

TEST_CASE("loader: the same batches while a network runs on the same workers") {
  const Records records;
  const RecordSet set(records.pattern());
  const auto alone = batches(small_options(), 1, 12);
  for (const int threads : {1, 2, 4}) {
    Workers workers(threads);
    Loader loader(set, workers, small_options());
    for (const Copy& expected : alone) {
      const Copy batch(loader.next());
      network_step(workers);
      REQUIRE(batch == expected);
    }
  }
}

TEST_CASE("loader: each epoch holds every record once, in an order of its own") {
  LoaderOptions options = small_options();
  options.batch = kRecords;
  const auto epochs = batches(options, 2, 4);
  std::vector<int32_t> all(kRecords);
  for (int i = 0; i < kRecords; ++i) all[static_cast<size_t>(i)] = i;
  for (size_t e = 0; e < epochs.size(); ++e) {
    CHECK(epochs[e].labels != all);
    CHECK(std::ranges::is_permutation(epochs[e].labels, all));
    CHECK(epochs[e].first_sample == static_cast<int64_t>(e) * kRecords);
    if (e > 0) CHECK(epochs[e].labels != epochs[e - 1].labels);
  }
  options.seed = 6;
  CHECK(batches(options, 1, 1)[0].labels != epochs[0].labels);
}

TEST_CASE("loader: batches run on across epochs") {
  LoaderOptions options = small_options();
  options.batch = 1;
  const auto single = labels(batches(options, 1, 60));
  options.batch = 4;
  CHECK(labels(batches(options, 1, 15)) == single);
  options.batch = 30;  // more than there are records
  CHECK(labels(batches(options, 1, 2)) == single);
}

TEST_CASE("loader: the record at each place of an order is equally likely") {
  // One million draws would be needed to see small bias; this sees an off-by-one in the shuffle.
  LoaderOptions options = small_options();
  options.size = 1;
  options.batch = kRecords;
  std::vector<int> first(kRecords), last(kRecords);
  constexpr int kEpochs = 2300;
  const Records records;
  const RecordSet set(records.pattern());
  Workers workers(2);
  Loader loader(set, workers, options);
  for (int e = 0; e < kEpochs; ++e) {
    const Batch batch = loader.next();
    ++first[static_cast<size_t>(batch.labels.front())];
    ++last[static_cast<size_t>(batch.labels.back())];
  }
  for (size_t r = 0; r < kRecords; ++r) {
    CHECK(std::abs(first[r] - 100) < 45);
    CHECK(std::abs(last[r] - 100) < 45);
  }
}

TEST_CASE("loader: a run resumed at a sample goes on with the same batches") {
  LoaderOptions options = small_options();
  const auto whole = batches(options, 2, 15);
  options.first_sample = 28;
  CHECK(batches(options, 2, 8) == std::vector(whole.begin() + 7, whole.end()));
  options.first_sample = 26;  // not at a batch's begin
  const auto all = labels(whole);
  CHECK(labels(batches(options, 2, 8)) == std::vector(all.begin() + 26, all.begin() + 58));
}

TEST_CASE("loader: a training picture is the augmentation of (seed, epoch, record)") {
  const LoaderOptions options = small_options();
  const auto all = batches(options, 3, 13);
  const size_t values = size_t{3} * 16 * 16;
  std::vector<float> expected(values);
  for (size_t s = 0; s < 52; ++s) {
    const Copy& batch = all[s / 4];
    const int record = batch.labels[s % 4];
    const Image image = picture(record);
    Rng rng(options.seed, static_cast<uint32_t>(s / kRecords), static_cast<uint64_t>(record),
            Purpose::augment);
    const AugmentDraw draw = draw_augmentation(image.width, image.height, options.ranges, rng);
    augment(image, draw, 16, options.normalisation, expected.data());
    const float* images = batch.images.data() + s % 4 * values;
    REQUIRE(std::equal(expected.begin(), expected.end(), images));
  }
}

TEST_CASE("loader: without augmentation or shuffling, pictures come as in validation") {
  LoaderOptions options = small_options();
  options.augment = false;
  options.shuffle = Shuffle::off;
  const auto training = batches(options, 2, 6);
  options.training = false;
  const auto validation = batches(options, 2, 5);
  CHECK(std::equal(validation.begin(), validation.end(), training.begin()));
  // Training then runs on into the next epoch.
  CHECK(training[5].labels == std::vector<int32_t>{20, 21, 22, 0});
}

TEST_CASE("loader: validation is one pass in file order with a short last batch") {
  LoaderOptions options = small_options();
  options.training = false;
  const auto all = batches(options, 2, 9);
  const size_t values = size_t{3} * 16 * 16;
  std::vector<float> expected(values);
  for (int record = 0; record < kRecords; ++record) {
    const auto position = static_cast<size_t>(record % 4);
    const Copy& batch = all[static_cast<size_t>(record / 4)];
    CHECK(batch.labels[position] == record);
    prepare_validation(picture(record), 18, 16, options.normalisation, expected.data());
    REQUIRE(std::equal(expected.begin(), expected.end(), batch.images.data() + position * values));
  }
  CHECK(all[5].labels.size() == 3);
  CHECK(all[5].images.size() == 3 * values);
  for (size_t i = 6; i < 9; ++i) CHECK(all[i].labels.empty());
  options.first_sample = 20;
  CHECK(labels(batches(options, 1, 3)) == std::vector<int32_t>{20, 21, 22});
}

TEST_CASE("loader: a batch stays as it is until the next call") {
  const Records records;
  const RecordSet set(records.pattern());
  Workers workers(3);
  Loader loader(set, workers, small_options());
  for (int i = 0; i < 5; ++i) {
    const Batch batch = loader.next();
    const Copy before(batch);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK(Copy(batch) == before);
  }
}

TEST_CASE("loader: waiting is counted when a batch is not ready, and only then") {
  const Records records;
  const RecordSet set(records.pattern());
  Workers one(1);
  Loader loader(set, one, small_options());
  CHECK(loader.take_wait_seconds() == 0);
  loader.next();
  CHECK(loader.take_wait_seconds() > 0);
  CHECK(loader.take_wait_seconds() == 0);

  Workers two(2);
  Loader ahead(set, two, small_options());
  ahead.next();
  ahead.take_wait_seconds();
  for (int tries = 0; tries < 3000; ++tries) {  // until the other thread has been faster
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ahead.next();
    if (ahead.take_wait_seconds() == 0) return;
  }
  FAIL("no batch was ready within half a minute");
}

TEST_CASE("loader: a label outside the classes names file, record, label and range") {
  const Records records;
  const RecordSet set(records.pattern());
  Workers workers(2);
  LoaderOptions options = small_options();
  options.training = false;
  options.classes = 10;
  Loader loader(set, workers, options);
  loader.next();
  loader.next();
  const std::string error = error_of([&] { loader.next(); });
  check_names(error, set.describe(10), "b.tfrecord", "the label 10 lies outside [0, 10)");
}

TEST_CASE("loader: a label below the offset is an error of its record") {
  const Records records;
  const RecordSet set(records.pattern());
  Workers workers(1);
  LoaderOptions options = small_options();
  options.training = false;
  options.keys.label_offset = 1;
  Loader loader(set, workers, options);
  check_names(error_of([&] { loader.next(); }), set.describe(0) + ": ");
}

TEST_CASE("loader: damaged pictures and records are errors of their batch, the first by place") {
  const Records records([](int number, std::vector<std::byte>& record) {
    const std::string garbage = "no picture at all";
    const auto bytes = std::as_bytes(std::span(garbage));
    if (number == 6 || number == 7) record = example({bytes.begin(), bytes.end()}, number);
    if (number == 13) record = make_example({{"label", std::vector<int64_t>{number}}});
    if (number == 17) record.resize(record.size() / 2);
  });
  const RecordSet set(records.pattern());
  LoaderOptions options = small_options();
  options.training = false;
  for (const int threads : {1, 2, 5}) {
    CAPTURE(threads);
    Workers workers(threads);
    Loader loader(set, workers, options);
    CHECK(loader.next().count == 4);
    const std::string bad_picture = error_of([&] { loader.next(); });
    check_names(bad_picture, set.describe(6) + ": not a readable JPEG, PNG, BMP or GIF");
    // The call after an error goes on with the batch that follows.
    const Batch third = loader.next();
    CHECK(third.first_sample == 8);
    CHECK(third.labels[0] == 8);
    check_names(error_of([&] { loader.next(); }), set.describe(13));
    check_names(error_of([&] { loader.next(); }), set.describe(17));
    CHECK(loader.next().count == 3);
    CHECK(loader.next().count == 0);
  }
}

TEST_CASE("loader: a record whose checksum is wrong is named once") {
  const Records records;
  {
    std::fstream file(records.file("a.tfrecord"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(100);
    file.put('\x55');
    file.put('\x56');
  }
  const RecordSet set(records.pattern());
  Workers workers(2);
  LoaderOptions options = small_options();
  options.training = false;
  Loader loader(set, workers, options);
  const std::string error = error_of([&] { loader.next(); });
  const size_t place = error.find("a.tfrecord");
  REQUIRE(place != std::string::npos);
  CHECK(error.find("a.tfrecord", place + 1) == std::string::npos);
}

TEST_CASE("loader: options that make no sense are refused") {
  const Records records;
  const RecordSet set(records.pattern());
  Workers workers(1);
  const auto error = [&](auto change) {
    LoaderOptions options = small_options();
    change(options);
    return error_of([&] { Loader(set, workers, options); });
  };
  check_names(error([](LoaderOptions& o) { o.batch = 0; }), "batch size");
  check_names(error([](LoaderOptions& o) { o.size = 0; }), "picture size");
  check_names(error([](LoaderOptions& o) { o.classes = 0; }), "classes");
  check_names(error([](LoaderOptions& o) { o.first_sample = -1; }), "first sample");
  check_names(error([](LoaderOptions& o) { o.prefetch = -1; }), "ahead");
  check_names(error([](LoaderOptions& o) { o.ranges.hue = 7; }), "hue");
  check_names(error([](LoaderOptions& o) { o.normalisation.stddev[1] = 0; }), "deviation");
}

TEST_CASE("loader: may be destroyed at any time, and the workers after it") {
  const Records records;
  for (int round = 0; round < 60; ++round) {
    const RecordSet set(records.pattern());
    Workers workers(1 + round % 4);
    Loader loader(set, workers, small_options());
    for (int i = 0; i < round % 3; ++i) loader.next();
    if (round % 5 == 0) network_step(workers);
  }
}
