#include "io/inflated_data.h"

#include <doctest/doctest.h>
#include <zlib.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "test/loader_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace fs = std::filesystem;

namespace {

using Record = std::vector<std::byte>;

// A gzip member.
Record gzipped(std::span<const std::byte> data) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  Record out(deflateBound(&stream, data.size()) + 18);
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// Bytes that compress to about a half.
Record some_data(size_t size) {
  Record data(size);
  uint32_t state = 1;
  for (std::byte& byte : data)
    byte = static_cast<std::byte>((state = state * 1664525 + 1013904223) >> 28);
  return data;
}

// A record set of the loader's tests with compressed files, read in place in pieces of 1000 bytes.
struct InPlace {
  explicit InPlace(const Records::Change& change = {}) : plain(change) {
    for (const std::string name : {"a.tfrecord", "b.tfrecord"})
      write_file(folder / name, gzipped(read_file(plain.file(name))));
  }
  RecordSet open(OnDamage on_damage = OnDamage::stop, const IndexCache* cache = nullptr) const {
    return RecordSet(folder / "*.tfrecord", {on_damage, cache, std::make_shared<PieceCache>(1000)});
  }

  ScratchFolder folder;
  Records plain;
};

LoaderOptions block_options() {
  LoaderOptions options = small_options();
  options.shuffle = Shuffle::block;
  options.shuffle_block = 4;
  options.shuffle_window = 8;
  return options;
}

}  // namespace

TEST_CASE("inflated data: any stretch in any order, across pieces and members") {
  const ScratchFolder folder;
  const Record data = some_data(100'000);
  const auto half = std::span(data).first(41'234), rest = std::span(data).subspan(41'234);
  Record members = gzipped(half);
  const Record second = gzipped(rest);
  members.insert(members.end(), second.begin(), second.end());
  for (const Record& bytes : {gzipped(data), members}) {
    write_file(folder / "a", bytes);
    const InputFile file(folder / "a");
    for (const size_t piece : {size_t{1000}, size_t{4096}, data.size(), 3 * data.size()}) {
      InflatedData measured(std::make_shared<PieceCache>(piece));
      REQUIRE(measured.measure(file).empty());
      REQUIRE(measured.size() == data.size());
      InflatedData known(std::make_shared<PieceCache>(piece));
      known.set_size(data.size());
      for (const size_t begin : {size_t{99'999}, size_t{0}, size_t{54'321}, size_t{3'999}}) {
        Record out(std::min<size_t>(9'000, data.size() - begin));
        const auto expected = std::span(data).subspan(begin, out.size());
        for (InflatedData* inflated : {&measured, &known}) {
          inflated->read_at(file, begin, out);
          CHECK(std::ranges::equal(out, expected));
        }
      }
    }
  }
}

TEST_CASE("inflated data: pieces beyond the bound are dropped and inflated again, by any thread") {
  const ScratchFolder folder;
  const Record data = some_data(50'000);
  write_file(folder / "a", gzipped(data));
  const InputFile file(folder / "a");
  const auto cache = std::make_shared<PieceCache>(512);
  cache->set_bound(1);
  InflatedData inflated(cache);
  inflated.set_size(data.size());
  std::vector<std::jthread> threads;
  std::atomic<int> wrong{0};
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Record out(700);
      for (size_t i = 0; i < 60; ++i) {
        const size_t begin = (t * 7'919 + i * 12'345) % (data.size() - out.size());
        inflated.read_at(file, begin, out);
        wrong += std::ranges::equal(out, std::span(data).subspan(begin, out.size())) ? 0 : 1;
      }
    });
  }
  threads.clear();
  CHECK(wrong == 0);
}

TEST_CASE("inflated data: damage and a changed file are errors, what lies before is read") {
  const ScratchFolder folder;
  const Record data = some_data(50'000);
  Record bytes = gzipped(data);
  bytes.resize(bytes.size() / 2);
  write_file(folder / "a", bytes);
  const InputFile file(folder / "a");
  InflatedData inflated(std::make_shared<PieceCache>(1000));
  check_names(inflated.measure(file), "truncated: the compressed data go on");
  CHECK(inflated.size() > 10'000);
  CHECK(inflated.size() < 40'000);
  Record out(1);
  inflated.read_at(file, inflated.size() - 1, out);
  CHECK(out[0] == data[inflated.size() - 1]);
  check_names(error_of([&] { inflated.read_at(file, inflated.size(), out); }), "data end");
  InflatedData longer(std::make_shared<PieceCache>(1000));
  longer.set_size(data.size());
  check_names(error_of([&] { longer.read_at(file, 45'000, out); }), "cannot inflate", "truncated");
}

TEST_CASE("loader: compressed files read in place give the batches of plain ones") {
  const InPlace files;
  const auto expected = batches(block_options(), 1, 20);
  for (const int threads : {1, 3}) {
    const RecordSet set = files.open();
    REQUIRE(set.inflates());
    Workers workers(threads);
    Loader loader(set, workers, block_options());
    CHECK(batches(loader, 20) == expected);
  }
}

TEST_CASE("loader: in place, a resumed run and the parts of processes are those of plain files") {
  const InPlace files;
  const RecordSet set = files.open(), plain(files.plain.pattern());
  Workers workers(2);
  for (const int shard : {0, 1, 2}) {
    LoaderOptions options = block_options();
    options.shard = shard;
    options.shards = 3;
    options.first_sample = 5;
    Loader here(set, workers, options), there(plain, workers, options);
    CHECK(batches(here, 9) == batches(there, 9));
  }
}

TEST_CASE("loader: in place, bad records are left out and named as in plain files") {
  const Records::Change change = [](int number, Record& record) {
    if (number % 6 == 2) record = example(to_bytes("no picture"), 1);
  };
  const InPlace files(change);
  Workers workers(2);
  LoaderOptions options = block_options();
  options.on_bad_record = FaultPolicy::skip;
  const RecordSet set = files.open(OnDamage::resynchronise), plain(files.plain.pattern());
  Loader here(set, workers, options), there(plain, workers, options);
  CHECK(batches(here, 9) == batches(there, 9));
  CHECK(here.bad_records() == there.bad_records());
  CHECK(here.bad_records().size() == 4);
  check_names(here.take_bad_records().front().text(set), "(inflated)", "not a readable");
}

TEST_CASE("record set: in place, an index is kept beside the data and no copy of them") {
  const InPlace files;
  const IndexCache cache;
  for (const char* name : {"a.tfrecord", "b.tfrecord"})
    fs::last_write_time(files.folder / name,
                        fs::file_time_type::clock::now() - std::chrono::hours(1));
  const RecordSet plain(files.plain.pattern());
  for (int opened = 0; opened < 2; ++opened) {
    const RecordSet set = files.open(OnDamage::stop, &cache);
    REQUIRE(set.size() == kRecords);
    CHECK(files.folder.files() == 4);
    for (const size_t i : {size_t{22}, size_t{3}, size_t{9}}) {
      Record a, b;
      set.read(i, a);
      plain.read(i, b);
      CHECK(a == b);
    }
  }
  // Without block shuffling the index alone is no use.
  const RecordSet copied(files.folder / "*.tfrecord", {OnDamage::stop, &cache});
  CHECK(copied.size() == kRecords);
  CHECK(!copied.inflates());
}

TEST_CASE("record file: in place, damaged compressed data give what an inflated copy gives") {
  const ScratchFolder folder;
  for_each_damage(read_file("test/data/io/gzip.tfrecord"), [&](const Record& bytes,
                                                               const std::string& what) {
    INFO(what);
    write_file(folder / "a", bytes);
    std::vector<std::string> contents[2];
    for (const bool in_place : {false, true}) {
      const RecordFile file(folder / "a", {OnDamage::resynchronise, nullptr,
                                           in_place ? std::make_shared<PieceCache>(64) : nullptr});
      for (size_t i = 0; i < file.size(); ++i) {
        Record record;
        try {
          file.read(i, record);
          contents[in_place].push_back(to_text(record));
        } catch (const DamagedRecord& e) {
          contents[in_place].emplace_back(e.what());
        }
      }
    }
    REQUIRE(contents[0] == contents[1]);
  });
}
