#include "io/inflated_data.h"

#include <doctest/doctest.h>
#include <zlib.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "io/wire.h"
#include "test/loader_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace fs = std::filesystem;

namespace {

using Record = std::vector<std::byte>;

constexpr int kGzip = MAX_WBITS + 16, kZlib = MAX_WBITS;

// A gzip member or a zlib file, in blocks of at most some KB of data.
Record deflated(std::span<const std::byte> data, int format, int level = 6) {
  z_stream stream{};
  // 1: the smallest memory, so that blocks are short.
  REQUIRE(deflateInit2(&stream, level, Z_DEFLATED, format, 1, Z_DEFAULT_STRATEGY) == Z_OK);
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

// A gzip file of one deflate block with fixed codes (RFC 1951, section 3.2.6), which knows literals
// and, for runs, the match of 258 bytes that lie one byte back.
Record in_one_block(std::span<const std::byte> data) {
  Record out = to_bytes(std::string("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10));
  uint64_t held = 0;
  int count = 0;
  const auto put = [&](unsigned value, int bits) {
    held |= uint64_t{value} << count;
    for (count += bits; count >= 8; count -= 8, held >>= 8)
      out.push_back(static_cast<std::byte>(held & 255));
  };
  const auto put_code = [&](unsigned code, int bits) {  // highest bit first
    for (int bit = bits - 1; bit >= 0; --bit) put(code >> bit & 1, 1);
  };
  put(1, 1);  // the last block
  put(1, 2);  // fixed codes
  for (size_t i = 0; i < data.size();) {
    const auto run = data.subspan(i, std::min<size_t>(258, data.size() - i));
    const bool match = i > 0 && run.size() == 258 &&
                       std::ranges::all_of(run, [&](std::byte b) { return b == data[i - 1]; });
    const auto literal = std::to_integer<unsigned>(data[i]);
    if (match) {
      put_code(0xC0 + 285 - 280, 8);
      put_code(0, 5);
    } else if (literal < 144) {
      put_code(0x30 + literal, 8);
    } else {
      put_code(0x190 + literal - 144, 9);
    }
    i += match ? run.size() : 1;
  }
  put_code(0, 7);
  if (count > 0) put(0, 8 - count);
  const uLong crc = crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size());
  wire::put(out, static_cast<uint32_t>(crc));
  wire::put(out, static_cast<uint32_t>(data.size()));
  return out;
}

Record gzipped(std::span<const std::byte> data) {
  return deflated(data, kGzip);
}

// Inflates a file for its access points.
InflatedData measured(const InputFile& file, const std::shared_ptr<PieceCache>& cache,
                      std::string* damage = nullptr) {
  AccessPoints passed{cache->piece()};
  uint64_t size = 0;
  const std::string found = inflate(
      file, [&](auto data) { size += data.size(); }, &passed);
  if (damage == nullptr) REQUIRE(found.empty());
  if (damage != nullptr) *damage = found;
  return {cache, size, std::move(passed.points)};
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
  const auto first = std::span(data).first(41'234), rest = std::span(data).subspan(41'234);
  const auto members = [&](int format) {
    Record both = deflated(first, format);
    const Record second = gzipped(rest);
    both.insert(both.end(), second.begin(), second.end());
    return both;
  };
  struct Case {
    Record bytes;
    size_t block;  // most data in one
  };
  const Case cases[] = {{gzipped(data), 1000},
                        {deflated(data, kZlib), 1000},
                        {members(kGzip), 1000},
                        {members(kZlib), 1000},
                        {deflated(data, kGzip, 0), 65'535}};
  for (const auto& [bytes, block] : cases) {
    write_file(folder / "a", bytes);
    const InputFile file(folder / "a");
    for (const size_t piece : {size_t{1000}, size_t{4096}, data.size(), 3 * data.size()}) {
      InflatedData inflated = measured(file, std::make_shared<PieceCache>(piece));
      REQUIRE(inflated.size() == data.size());
      CHECK(inflated.points().size() >= data.size() / std::max(piece, block));
      CHECK(inflated.points().size() <= data.size() / piece + 1);
      for (const size_t begin : {size_t{99'999}, size_t{0}, size_t{54'321}, size_t{3'999}}) {
        Record out(std::min<size_t>(9'000, data.size() - begin));
        inflated.read_at(file, begin, out);
        CHECK(std::ranges::equal(out, std::span(data).subspan(begin, out.size())));
      }
    }
  }
}

TEST_CASE("inflated data: a stretch is inflated from the place before it, not from the begin") {
  const ScratchFolder folder;
  const Record data = some_data(100'000);
  Record bytes = gzipped(data);
  write_file(folder / "a", bytes);
  InflatedData inflated = measured(InputFile(folder / "a"), std::make_shared<PieceCache>(1000));
  std::fill_n(bytes.begin(), bytes.size() / 2, std::byte{0});
  write_file(folder / "a", bytes);
  const InputFile file(folder / "a");
  Record out(30'000);
  inflated.read_at(file, 70'000, out);
  CHECK(std::ranges::equal(out, std::span(data).subspan(70'000)));
  check_names(error_of([&] { inflated.read_at(file, 10'000, out); }), "cannot inflate");
}

TEST_CASE("inflated data: pieces beyond the bound are dropped and inflated again, by any thread") {
  const ScratchFolder folder;
  const Record data = some_data(50'000);
  write_file(folder / "a", gzipped(data));
  const InputFile file(folder / "a");
  const auto cache = std::make_shared<PieceCache>(512);
  cache->set_bound(1);
  InflatedData inflated = measured(file, cache);
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
  const auto cache = std::make_shared<PieceCache>(1000);
  std::string damage;
  InflatedData inflated = measured(file, cache, &damage);
  check_names(damage, "truncated: the compressed data go on");
  CHECK(inflated.size() > 10'000);
  CHECK(inflated.size() < 40'000);
  Record out(1);
  inflated.read_at(file, inflated.size() - 1, out);
  CHECK(out[0] == data[inflated.size() - 1]);
  check_names(error_of([&] { inflated.read_at(file, inflated.size(), out); }), "data end");
  InflatedData longer(cache, data.size(), {{}});
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
  const std::string kept = files.folder / ".b.tfrecord.mbconv-index";
  fs::file_time_type written;
  for (int opened = 0; opened < 2; ++opened) {
    const RecordSet set = files.open(OnDamage::stop, &cache);
    if (opened > 0) CHECK(fs::last_write_time(kept) == written);  // not made again
    written = fs::last_write_time(kept);
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

TEST_CASE("record file: a block too large for a piece in memory is inflated to a copy") {
  const ScratchFolder folder;
  for (const size_t size : {size_t{1} << 20, size_t{65} << 20}) {
    Record data;
    append_record(data, to_bytes(std::string(size, 'A')));
    append_record(data, to_bytes("the end"));
    write_file(folder / "a", in_one_block(data));
    const RecordFile file(folder / "a", {OnDamage::stop, nullptr, std::make_shared<PieceCache>()});
    CHECK(file.inflates() == (size < size_t{64} << 20));
    REQUIRE(file.size() == 2);
    Record record;
    file.read(1, record);
    CHECK(to_text(record) == "the end");
    file.read(0, record);
    CHECK(to_text(record) == std::string(size, 'A'));
  }
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
