#include "io/tfrecord.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <atomic>
#include <cstdlib>
#include <ctime>
#include <thread>

#include "io/crc32c.h"
#include "io/record_set.h"
#include "lib/error.h"
#include "test/io_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

using Record = std::vector<std::byte>;

const std::string kData = "test/data/io/";

std::vector<Record> read_all(const std::string& path) {
  const RecordFile file(path);
  std::vector<Record> records(file.size());
  for (size_t i = 0; i < file.size(); ++i) file.read(i, records[i]);
  return records;
}

Record frame(std::string_view text) {
  Record out;
  append_record(out, to_bytes(text));
  return out;
}

// Frames of records 0, 1, ... one after the other.
Record frames(const std::vector<std::string>& texts) {
  Record out;
  for (const std::string& text : texts) append_record(out, to_bytes(text));
  return out;
}

// window_bits: 15 for zlib, 31 for gzip.
Record deflated(const Record& data, int window_bits) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 9, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY) == Z_OK);
  Record out(deflateBound(&stream, data.size()));
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

Record joined(Record a, const Record& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::string error_of_opening(const std::string& path) {
  return error_of([&] { RecordFile file(path); });
}

}  // namespace

TEST_CASE("tfrecord: plain, gzip and many-member gzip files of TensorFlow hold the same records") {
  const std::vector<Record> plain = read_all(kData + "plain.tfrecord");
  REQUIRE(plain.size() == 3);
  CHECK(plain[0].size() == 0x149);
  CHECK(to_text(plain[2]).find("2.png") != std::string::npos);
  CHECK(plain == read_all(kData + "gzip.tfrecord"));
  CHECK(plain == read_all(kData + "members.tfrecord"));
}

TEST_CASE("tfrecord: a zlib file of TensorFlow is read") {
  const std::vector<Record> records = read_all(kData + "zlib.tfrecord");
  REQUIRE(records.size() == 2);
  CHECK(to_text(records[0]).find("image/class/synset") != std::string::npos);
}

TEST_CASE("tfrecord: appended frames have the bytes that TensorFlow writes") {
  Record out;
  for (const Record& record : read_all(kData + "plain.tfrecord")) append_record(out, record);
  CHECK(out == read_file(kData + "plain.tfrecord"));
}

TEST_CASE("tfrecord: locations are offsets of frames and lengths of data") {
  const ScratchFolder folder;
  write_file(folder / "a", frames({"one", "", "three"}));
  const RecordFile file(folder / "a");
  REQUIRE(file.size() == 3);
  CHECK(file.location(1).offset == 12 + 3 + 4);
  CHECK(file.location(1).length == 0);
  CHECK(file.location(2).offset == 12 + 3 + 4 + 12 + 4);
  CHECK(file.location(2).length == 5);
  Record record = to_bytes("something longer from before");
  file.read(1, record);
  CHECK(record.empty());
  check_names(error_of([&] { file.read(3, record); }), folder / "a", "no record 3", "has 3");
}

TEST_CASE("tfrecord: an empty file, a short file and a file of another kind are refused") {
  const ScratchFolder folder;
  write_file(folder / "empty", {});
  check_names(error_of_opening(folder / "empty"), folder / "empty", "empty (0 bytes)");
  write_file(folder / "short", to_bytes("12345"));
  check_names(error_of_opening(folder / "short"), "not a TFRecord file", "5 bytes");
  const std::string text(12, 'x');
  write_file(folder / "text", to_bytes(text));
  check_names(error_of_opening(folder / "text"), folder / "text", "not a TFRecord file", "record 0",
              "offset 0", "expected 0x", "found 0x78787878", "no gzip or zlib header");
  check_names(error_of_opening(folder.path()), folder.path(), "is a folder");
  check_names(error_of_opening(folder / "none"), folder / "none", "No such file");
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  check_names(error_of_opening(folder / "pipe"), "not a regular file");
}

TEST_CASE("tfrecord: a wrong length CRC is named with record, offset and both values at opening") {
  const ScratchFolder folder;
  Record bytes = frames({"one", "two"});
  bytes[19 + 8] ^= std::byte{0x01};
  write_file(folder / "a", bytes);
  check_names(error_of_opening(folder / "a"), folder / "a", "record 1 at offset 19",
              "wrong length CRC", "expected 0x", "found 0x");
}

TEST_CASE("tfrecord: a valid length past the end is told as truncation, with both sizes") {
  const ScratchFolder folder;
  Record bytes = frames({"one", "two and more"});
  bytes.resize(bytes.size() - 6);
  write_file(folder / "a", bytes);
  check_names(error_of_opening(folder / "a"), folder / "a", "record 1 at offset 19", "truncated",
              "12 bytes", "10 bytes are left");
  bytes.resize(19 + 7);
  write_file(folder / "a", bytes);
  check_names(error_of_opening(folder / "a"), "record 1 at offset 19", "truncated", "7 bytes");
  // A length near 2^64 must not wrap around.
  Record huge(8, std::byte{0xFF});
  const uint32_t crc = masked_crc32c(huge);
  const auto crc_bytes = std::as_bytes(std::span(&crc, 1));
  huge.insert(huge.end(), crc_bytes.begin(), crc_bytes.end());
  huge.resize(40);
  write_file(folder / "a", huge);
  check_names(error_of_opening(folder / "a"), "record 0 at offset 0", "truncated",
              "18446744073709551615 bytes");
}

TEST_CASE("tfrecord: a wrong data CRC is named at reading, and the other records stay readable") {
  const ScratchFolder folder;
  Record bytes = frames({"one", "two", "three"});
  bytes[19 + 12] = std::byte{'T'};
  write_file(folder / "a", bytes);
  const RecordFile file(folder / "a");
  Record record;
  check_names(error_of([&] { file.read(1, record); }), folder / "a", "record 1 at offset 19",
              "wrong data CRC", "expected 0x", "found 0x");
  file.read(2, record);
  CHECK(to_text(record) == "three");
}

TEST_CASE("tfrecord: a file that shrinks after opening is an error with record and offset") {
  const ScratchFolder folder;
  write_file(folder / "a", frames({"one", "two"}));
  const RecordFile file(folder / "a");
  REQUIRE(truncate((folder / "a").c_str(), 20) == 0);
  Record record;
  check_names(error_of([&] { file.read(1, record); }), folder / "a", "record 1 at offset 19",
              "shrunk");
}

TEST_CASE("tfrecord: a plain file is never taken for a compressed one") {
  // The length 0x..8b1f starts a plain file with gzip's magic bytes.
  const ScratchFolder folder;
  const std::string text(0x8b1f, 'x');
  write_file(folder / "a", frame(text));
  const std::vector<Record> records = read_all(folder / "a");
  REQUIRE(records.size() == 1);
  CHECK(to_text(records[0]) == text);
}

TEST_CASE("tfrecord: damaged compressed files name the file and the reason") {
  const ScratchFolder folder;
  const Record gzip = deflated(frames({"one", "two"}), 31);
  Record cut = gzip;
  cut.pop_back();
  write_file(folder / "cut", cut);
  check_names(error_of_opening(folder / "cut"), folder / "cut", "gzip", "truncated");
  Record damaged = gzip;
  damaged[damaged.size() - 5] ^= std::byte{1};  // its CRC-32
  write_file(folder / "damaged", damaged);
  check_names(error_of_opening(folder / "damaged"), folder / "damaged", "incorrect data check");
  write_file(folder / "tail", joined(gzip, to_bytes("junk behind")));
  check_names(error_of_opening(folder / "tail"), folder / "tail",
              "damaged compressed data at byte");
  write_file(folder / "nothing", deflated({}, 31));
  check_names(error_of_opening(folder / "nothing"), folder / "nothing", "inflates to 0 bytes");
  write_file(folder / "text", deflated(to_bytes("no records, just text"), 15));
  check_names(error_of_opening(folder / "text"), folder / "text",
              "record 0 at offset 0 (inflated): wrong length CRC");
}

TEST_CASE("tfrecord: a full disk or a bad TMPDIR is told when inflating, with the way out") {
  const ScratchFolder folder;
  const Record gzip = deflated(frame(std::string(1 << 20, 'x')), 31);
  write_file(folder / "a", gzip);
  {
    const Limit limit(RLIMIT_FSIZE, 1 << 18);
    check_names(error_of_opening(folder / "a"), folder / "a", "File too large", "TMPDIR");
  }
  const char* before = std::getenv("TMPDIR");
  const std::string kept = before == nullptr ? "" : before;
  setenv("TMPDIR", (folder / "missing").c_str(), 1);
  check_names(error_of_opening(folder / "a"), folder / "missing", "No such file", "TMPDIR");
  setenv("TMPDIR", folder.path().c_str(), 1);
  {
    const RecordFile file(folder / "a");
    CHECK(file.size() == 1);
    CHECK(folder.files() == 1);  // the temporary file has no name
  }
  before == nullptr ? unsetenv("TMPDIR") : setenv("TMPDIR", kept.c_str(), 1);
}

TEST_CASE("tfrecord: compressed data larger than every buffer come out whole, zlib and gzip") {
  const ScratchFolder folder;
  std::vector<std::string> texts;
  uint32_t state = 1;
  for (int i = 0; i < 200; ++i) {
    std::string text(static_cast<size_t>(20 * i), ' ');
    for (char& c : text) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
    texts.push_back(text + std::string(5000, 'r'));
  }
  const Record plain = frames(texts);
  REQUIRE(plain.size() > (size_t{1} << 20));
  // Two members, the first of which holds half a frame.
  const auto middle = plain.begin() + static_cast<ptrdiff_t>(plain.size() / 2 + 3);
  const Record members =
      joined(deflated({plain.begin(), middle}, 31), deflated({middle, plain.end()}, 31));
  for (const Record& bytes : {deflated(plain, 15), deflated(plain, 31), members}) {
    write_file(folder / "a", bytes);
    const std::vector<Record> records = read_all(folder / "a");
    REQUIRE(records.size() == texts.size());
    for (size_t i = 0; i < texts.size(); ++i) REQUIRE(to_text(records[i]) == texts[i]);
  }
}

TEST_CASE("tfrecord: frames are found whatever their sizes: tiny, of pages, of many pages") {
  const ScratchFolder folder;
  RecordWriter writer(folder / "a");
  std::vector<size_t> sizes;
  for (size_t i = 0; i < 3000; ++i) {
    sizes.push_back(i < 1000 ? i % 7 : i < 2000 ? (i * 7919) % 9000 : (i * 104729) % 60000);
    writer.write(Record(sizes.back(), static_cast<std::byte>(i)));
  }
  writer.close();
  const RecordFile file(folder / "a");
  REQUIRE(file.size() == sizes.size());
  Record record;
  for (size_t i = 0; i < sizes.size(); ++i) {
    file.read(i, record);
    REQUIRE(record == Record(sizes[i], static_cast<std::byte>(i)));
  }
}

TEST_CASE("tfrecord: 100,000 records are opened well under a second") {
  const ScratchFolder folder;
  const Record one = frame(std::string(300, 'x'));
  Record all;
  for (int i = 0; i < 100000; ++i) all.insert(all.end(), one.begin(), one.end());
  write_file(folder / "a", all);
  // Of the CPU, so that a busy machine does not matter.
  const std::clock_t start = std::clock();
  const RecordFile file(folder / "a");
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  CHECK(file.size() == 100000);
  CHECK(seconds < 0.5);
}

TEST_CASE("tfrecord: records are read by several threads at once") {
  const ScratchFolder folder;
  RecordWriter writer(folder / "a");
  for (int i = 0; i < 200; ++i) writer.write(to_bytes(std::string(100, static_cast<char>(i))));
  writer.close();
  const RecordSet set(folder / "a");
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        Record record;
        for (size_t i = 0; i < 2000; ++i) {
          const size_t r = (i * 17 + t * 50) % 200;
          set.read(r, record);
          if (record != Record(100, static_cast<std::byte>(r))) ++wrong;
        }
      });
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE(
    "tfrecord: every flipped bit of a plain file is an error, every cut but between records") {
  const ScratchFolder folder;
  const Record valid = frames({"first", "", "third record"});
  for_each_damage(valid, [&](const Record& damaged, const std::string& how) {
    INFO(how);
    write_file(folder / "a", damaged);
    const bool between_records = damaged == frame("first") || damaged == frames({"first", ""});
    if (between_records) {
      CHECK_NOTHROW(read_all(folder / "a"));
    } else {
      CHECK_THROWS_AS(read_all(folder / "a"), Error);
    }
  });
}

TEST_CASE("tfrecord: a damaged gzip or zlib file gives its records or an error") {
  const ScratchFolder folder;
  const Record plain = frames({"first", "", "third record"});
  write_file(folder / "plain", plain);
  const std::vector<Record> expected = read_all(folder / "plain");
  for (const int window_bits : {15, 31}) {
    int errors = 0;
    const auto check = [&](const Record& damaged, const std::string& how) {
      INFO(how);
      write_file(folder / "a", damaged);
      std::vector<Record> records;
      try {
        records = read_all(folder / "a");
      } catch (const Error&) {
        ++errors;
        return;
      }
      CHECK(records == expected);
    };
    for_each_damage(deflated(plain, window_bits), check);
    CHECK(errors > 100);
  }
}
