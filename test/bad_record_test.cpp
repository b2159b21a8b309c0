#include "io/bad_record.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>

#include "test/loader_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

// Records 0 .. kRecords - 1 with some bad: 2 and 3 no pictures, 7 a damaged length, 12 a damaged
// checksum, 22 a label out of range.
class BadRecords {
 public:
  BadRecords()
      : records_([](int number, std::vector<std::byte>& record) {
          if (number == 2 || number == 3) record = example(to_bytes("no picture"), number);
          if (number == 22) record = example(encode_png(picture(number)), 1000);
        }) {
    const RecordSet whole(records_.pattern());
    damage(whole, 7, 0);
    damage(whole, 12, 60);
  }
  std::string pattern() const { return records_.pattern(); }
  static std::vector<uint32_t> numbers() { return {2, 3, 7, 12, 22}; }

 private:
  static void damage(const RecordSet& set, size_t record, size_t byte) {
    const auto place = set.place(record);
    const RecordFile& file = set.file(place.file);
    std::fstream out(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    const auto at = static_cast<std::streamoff>(file.location(place.record).offset + byte);
    out.seekg(at);
    const char old = static_cast<char>(out.get());
    out.seekp(at);
    out.put(static_cast<char>(old ^ 0x21));
  }

  Records records_;
};

const OpenOptions kResynchronise{OnDamage::resynchronise, nullptr};

LoaderOptions skipping(FaultPolicy policy = FaultPolicy::skip) {
  LoaderOptions options = small_options();
  options.on_bad_record = policy;
  return options;
}

bool is_bad(uint32_t record) {
  return std::ranges::count(BadRecords::numbers(), record) > 0;
}

// The good records of the first epochs, in order.
std::vector<int32_t> good_order(const LoaderOptions& options, int64_t epochs) {
  EpochOrder order(kRecords, {options.shuffle, options.seed});
  std::vector<int32_t> good;
  for (int64_t e = 0; e < epochs; ++e) {
    for (size_t p = 0; p < kRecords; ++p) {
      const uint32_t record = order.record(e, p);
      if (!is_bad(record)) good.push_back(static_cast<int32_t>(record));
    }
  }
  return good;
}

std::vector<std::string> lines_of(const std::string& path) {
  std::ifstream in(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace

TEST_CASE("loader: with bad records skipped, batches are the good samples of the order in order") {
  const BadRecords bad;
  const RecordSet set(bad.pattern(), kResynchronise);
  const auto expected = good_order(small_options(), 4);
  std::vector<Copy> first;
  for (const int threads : {1, 2, 5}) {
    for (const int prefetch : {0, 1, 3, 8}) {
      CAPTURE(threads);
      CAPTURE(prefetch);
      Workers workers(threads);
      LoaderOptions options = skipping();
      options.prefetch = prefetch;
      Loader loader(set, workers, options);
      const auto all = batches(loader, 18);
      CHECK(std::equal(expected.begin(), expected.end(), labels(all).begin()));
      if (first.empty()) first = all;
      CHECK(all == first);
      CHECK(loader.bad_records() == BadRecords::numbers());
    }
  }
}

TEST_CASE("loader: skipped records change no other picture") {
  const BadRecords bad;
  const RecordSet set(bad.pattern(), kResynchronise);
  Workers workers(2);
  Loader loader(set, workers, skipping());
  const auto all = batches(loader, 4);
  const auto good = batches(small_options(), 2, 6);
  const size_t values = size_t{3} * 16 * 16;
  size_t compared = 0;
  for (size_t s = 0; s < 16; ++s) {
    const Copy& batch = all[s / 4];
    for (size_t g = 0; g < 23; ++g) {
      if (good[g / 4].labels[g % 4] != batch.labels[s % 4]) continue;
      const float* a = batch.images.data() + s % 4 * values;
      const float* b = good[g / 4].images.data() + g % 4 * values;
      CHECK(std::equal(a, a + values, b));
      ++compared;
    }
  }
  CHECK(compared == 16);
}

TEST_CASE("loader: a run with skipped records resumes at next_sample, bit for bit") {
  const BadRecords bad;
  const RecordSet set(bad.pattern(), kResynchronise);
  Workers workers(2);
  Loader loader(set, workers, skipping());
  std::vector<Copy> whole;
  std::vector<int64_t> cuts;
  for (int i = 0; i < 12; ++i) {
    const Batch batch = loader.next();
    whole.emplace_back(batch);
    cuts.push_back(batch.next_sample);
  }
  for (const size_t done : {1, 3, 4, 9}) {
    LoaderOptions options = skipping();
    options.first_sample = cuts[done - 1];
    Loader rest(set, workers, options);
    const auto resumed = batches(rest, 3);
    for (size_t i = 0; i < 3; ++i) {
      CHECK(resumed[i].images == whole[done + i].images);
      CHECK(resumed[i].labels == whole[done + i].labels);
    }
  }
}

TEST_CASE("loader: bad records are told once, in the order they are met, with their places") {
  const BadRecords bad;
  const RecordSet set(bad.pattern(), kResynchronise);
  Workers workers(3);
  LoaderOptions options = skipping();
  options.shuffle = Shuffle::off;
  Loader loader(set, workers, options);
  loader.next();  // 0 1 4 5
  auto told = loader.take_bad_records();
  REQUIRE(told.size() == 2);
  CHECK(told[0].number == 2);
  CHECK(told[0].fault.reason == "not a readable JPEG, PNG, BMP or GIF: unknown image type");
  CHECK(loader.take_bad_records().empty());
  batches(loader, 20);
  told = loader.take_bad_records();
  REQUIRE(told.size() == 3);
  CHECK(told[0].number == 7);
  CHECK(told[0].record == 7);
  CHECK(told[0].fault.crc.has_value());
  CHECK(told[1].number == 12);
  CHECK(told[1].record == 3);
  CHECK(told[1].file.ends_with("b.tfrecord"));
  CHECK(told[1].offset == set.file(1).location(3).offset);
  CHECK(told[1].text(set).starts_with(set.describe(12) + ": wrong data CRC: expected 0x"));
  CHECK(told[2].fault.reason == "the label 1000 lies outside [0, 23)");
  // A resumed run knows them.
  options.known_bad = loader.bad_records();
  Loader resumed(set, workers, options);
  batches(resumed, 6);
  CHECK(resumed.take_bad_records().empty());
  CHECK(resumed.bad_records() == BadRecords::numbers());
}

TEST_CASE("loader: validation counts every good picture once and stops") {
  const BadRecords bad;
  const RecordSet set(bad.pattern(), kResynchronise);
  for (const int batch : {1, 4, 5, 18, 23, 50}) {
    CAPTURE(batch);
    Workers workers(2);
    LoaderOptions options = skipping();
    options.training = false;
    options.batch = batch;
    Loader loader(set, workers, options);
    std::vector<int32_t> seen;
    for (Batch b = loader.next(); b.count > 0; b = loader.next())
      seen.insert(seen.end(), b.labels.begin(), b.labels.end());
    options.shuffle = Shuffle::off;
    CHECK(seen == good_order(options, 1));
    CHECK(loader.next().count == 0);
    CHECK(loader.bad_records().size() == 5);
  }
}

TEST_CASE("loader: too many bad records end the run, by count or by share") {
  const BadRecords bad;
  const RecordSet set(bad.pattern(), kResynchronise);
  Workers workers(2);
  const auto run = [&](const std::string& limit) {
    LoaderOptions options = skipping();
    options.max_bad = parse_bad_limit(limit);
    Loader loader(set, workers, options);
    batches(loader, 12);
  };
  CHECK_NOTHROW(run("5"));
  CHECK_NOTHROW(run("22%"));
  CHECK_NOTHROW(run("100%"));
  check_names(error_of([&] { run("4"); }), "too many bad records: 5", "record");
  check_names(error_of([&] { run("0"); }), "too many bad records: 1");
  check_names(error_of([&] { run("21%"); }), "too many bad records: 5");
}

TEST_CASE("loader: a set without a good record is an error, not an endless search") {
  const Records records([](int number, std::vector<std::byte>& record) {
    record = example(to_bytes("no picture"), number);
  });
  const RecordSet set(records.pattern());
  Workers workers(2);
  LoaderOptions options = skipping();
  options.max_bad = parse_bad_limit("100%");
  for (const bool training : {true, false}) {
    options.training = training;
    Loader loader(set, workers, options);
    check_names(error_of([&] { loader.next(); }), "none of the 23 records is usable");
  }
}

TEST_CASE(
    "loader: bad records at the end of one epoch and the begin of the next are no whole one") {
  const Records records([](int number, std::vector<std::byte>& record) {
    if (number != 4) record = example(to_bytes("no picture"), number);
  });
  const RecordSet set(records.pattern());
  Workers workers(2);
  LoaderOptions options = skipping();
  options.max_bad = parse_bad_limit("100%");
  Loader loader(set, workers, options);
  for (const int32_t label : labels(batches(loader, 10))) CHECK(label == 4);
}

TEST_CASE("loader: the parts of several processes are disjoint and make up the common order") {
  const Records records;
  const RecordSet set(records.pattern());
  LoaderOptions options = small_options();
  const auto common = labels(batches(options, 2, 30));
  options.shards = 3;
  for (const bool training : {true, false}) {
    options.training = training;
    std::vector<std::vector<int32_t>> parts;
    for (options.shard = 0; options.shard < 3; ++options.shard) {
      Workers workers(2);
      Loader loader(set, workers, options);
      parts.push_back(labels(batches(loader, 10)));
    }
    for (size_t p = 0; p < 3; ++p) {
      if (!training) CHECK(parts[p].size() == (p < 2 ? 8 : 7));
      for (size_t i = 0; i < parts[p].size(); ++i)
        CHECK(parts[p][i] == (training ? common[3 * i + p] : static_cast<int32_t>(3 * i + p)));
    }
  }
  options.shard = 3;
  Workers workers(1);
  check_names(error_of([&] { Loader(set, workers, options); }), "no shard 3 of 3");
}

TEST_CASE("loader: a bound in bytes lowers what is prepared ahead, not what is prepared") {
  const Records records;
  const RecordSet set(records.pattern());
  const auto expected = batches(small_options(), 2, 6);
  constexpr uint64_t kBatch = uint64_t{4} * 16 * 16 * 3 * 4;
  for (const auto& [bytes, prefetch] : {std::pair{uint64_t{0}, 3},
                                        {kBatch - 1, 0},
                                        {kBatch, 1},
                                        {kBatch * 2 + 1, 2},
                                        {kBatch * 9, 3}}) {
    LoaderOptions options = small_options();
    options.prefetch_bytes = bytes;
    Workers workers(2);
    Loader loader(set, workers, options);
    CHECK(loader.prefetch() == prefetch);
    CHECK(batches(loader, 6) == expected);
  }
}

TEST_CASE("loader: block shuffling gives its order, the same for any number of threads") {
  LoaderOptions options = small_options();
  options.shuffle = Shuffle::block;
  options.shuffle_block = 4;
  options.shuffle_window = 8;
  const auto one = batches(options, 1, 12);
  CHECK(batches(options, 3, 12) == one);
  EpochOrder order(kRecords, {Shuffle::block, options.seed, 4, 8});
  const auto all = labels(one);
  for (size_t i = 0; i < all.size(); ++i)
    CHECK(all[i] ==
          static_cast<int32_t>(order.record(static_cast<int64_t>(i / kRecords), i % kRecords)));
}

TEST_CASE("quarantine: bytes as they are and a line for each, once") {
  const BadRecords bad;
  const RecordSet set(bad.pattern(), kResynchronise);
  const ScratchFolder folder;
  const std::string where = folder / "run/quarantine";
  Workers workers(2);
  Loader loader(set, workers, skipping(FaultPolicy::quarantine));
  batches(loader, 6);
  Quarantine quarantine(where);
  const auto told = loader.take_bad_records();
  REQUIRE(told.size() == 5);
  for (int again = 0; again < 2; ++again)
    for (const BadRecord& record : told) quarantine.add(set, record);
  const auto lines = lines_of(where + "/reasons.csv");
  REQUIRE(lines.size() == 6);
  CHECK(lines[0] == "file,record,offset,expected_crc,found_crc,reason,saved_as");
  for (size_t i = 0; i < 5; ++i) {
    const std::string name = lines[i + 1].substr(lines[i + 1].rfind(',') + 1);
    const auto place = set.place(told[i].number);
    std::vector<std::byte> raw;
    set.file(place.file).read_raw(place.record, 1 << 20, raw);
    CHECK(read_file(where + "/" + name) == raw);
    CHECK(lines[i + 1].starts_with(told[i].file + "," + std::to_string(told[i].record) + "," +
                                   std::to_string(told[i].offset) + ","));
  }
  const ScratchFolder other;
  write_file(other / "file", {});
  Quarantine blocked(other / "file/quarantine");
  check_names(error_of([&] { blocked.add(set, told[0]); }), other / "file/quarantine");
}

TEST_CASE("bad records: lines quote what must be, limits and policies are read or refused") {
  const BadRecord bad{3, "a,b", 1, 22, {"is \"this\"\na reason", Crc{1, 0xABCDEF01}}};
  CHECK(csv_line(bad) == "\"a,b\",1,22,0x00000001,0xabcdef01,\"is \"\"this\"\" a reason\"");
  CHECK(csv_line({0, "f", 0, 0, {"why", {}}}) == "f,0,0,,,why");
  CHECK(parse_bad_limit("10%").share == doctest::Approx(0.1));
  CHECK(parse_bad_limit("10%").count == -1);
  CHECK(parse_bad_limit("7").count == 7);
  for (const char* text : {"", "%", "x", "1.5", "-1", "-1%", "101%", "3 ", "nan", "1e99"}) {
    INFO(text);
    check_names(error_of([&] { parse_bad_limit(text); }), "no limit for bad records");
  }
  CHECK(parse_fault_policy("quarantine") == FaultPolicy::quarantine);
  check_names(error_of([] { parse_fault_policy("ignore"); }), "ignore",
              "strict, skip or quarantine");
}
