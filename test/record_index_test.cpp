#include "io/record_index.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "io/crc32c.h"
#include "io/tfrecord.h"
#include "test/io_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

using Record = std::vector<std::byte>;

const OpenOptions kResynchronise{OnDamage::resynchronise, nullptr};

Record frames(const std::vector<std::string>& texts) {
  Record out;
  for (const std::string& text : texts) append_record(out, to_bytes(text));
  return out;
}

// What a file gives, record by record: the data, or "!" and the reason.
std::vector<std::string> contents(const RecordFile& file) {
  std::vector<std::string> out;
  Record record;
  for (size_t i = 0; i < file.size(); ++i) {
    try {
      file.read(i, record);
      out.push_back(to_text(record));
    } catch (const DamagedRecord& damaged) {
      CHECK(damaged.what() == file.describe(i) + ": " + damaged.fault().reason);
      out.push_back("!" + damaged.fault().reason);
    }
  }
  return out;
}

std::vector<std::string> contents_of(const ScratchFolder& folder, const Record& bytes) {
  write_file(folder / "a", bytes);
  return contents(RecordFile(folder / "a", kResynchronise));
}

}  // namespace

TEST_CASE(
    "record index: a damaged length counts as one record, and the others keep their numbers") {
  const ScratchFolder folder;
  for (const size_t where : {0, 3, 7, 8, 11}) {
    Record bytes = frames({"first", "second", "third", "fourth"});
    bytes[21 + where] ^= std::byte{0x10};  // of record 1
    const auto found = contents_of(folder, bytes);
    REQUIRE(found.size() == 4);
    CHECK(found[0] == "first");
    CHECK(found[1].starts_with("!wrong length CRC: expected 0x"));
    CHECK(found[2] == "third");
    CHECK(found[3] == "fourth");
  }
}

TEST_CASE("record index: a damaged frame tells its offset, its bytes, and both values of its CRC") {
  const ScratchFolder folder;
  Record bytes = frames({"first", "second", "third"});
  bytes[21] ^= std::byte{1};
  write_file(folder / "a", bytes);
  const InputFile file(folder / "a");
  const RecordIndex index = index_records(file, OnDamage::resynchronise);
  REQUIRE(index.records.size() == 3);
  CHECK(index.records[1] == RecordLocation{21, 22});
  REQUIRE(index.damaged.size() == 1);
  CHECK(index.damaged[0].record == 1);
  REQUIRE(index.damaged[0].fault.crc.has_value());
  CHECK(*index.damaged[0].fault.crc == length_crc(bytes.data() + 21));
  CHECK(index.fault(0) == nullptr);
  CHECK(index.fault(1) == &index.damaged[0].fault);
  CHECK(index.fault(2) == nullptr);
  // Without resynchronisation the index ends there.
  CHECK(index_records(file, OnDamage::stop).records.size() == 2);
}

TEST_CASE("record index: records after lost or foreign bytes are found again") {
  const ScratchFolder folder;
  const Record whole = frames({"first", "second", "third", "fourth"});
  // Bytes are missing from the data of record 1: its own CRC is wrong, the rest of it is a frame.
  Record cut(whole);
  cut.erase(cut.begin() + 34, cut.begin() + 37);
  auto found = contents_of(folder, cut);
  REQUIRE(found.size() == 4);
  CHECK(found[1].starts_with("!wrong data CRC: expected 0x"));
  CHECK(found[2].starts_with("!wrong length CRC"));  // begins within record 2
  CHECK(found[3] == "fourth");
  // Foreign bytes between frames, of any length.
  for (const size_t length : {1, 11, 12, 100, 5000}) {
    Record foreign(whole);
    foreign.insert(foreign.begin() + 21, length, std::byte{0x5A});
    found = contents_of(folder, foreign);
    REQUIRE(found.size() == 5);
    CHECK(found[0] == "first");
    CHECK(found[1][0] == '!');
    CHECK(found[2] == "second");
  }
}

TEST_CASE("record index: the next frame is found where pieces of the search meet") {
  const ScratchFolder folder;
  constexpr size_t kPiece = size_t{1} << 20;
  for (const size_t length : {kPiece - 13, kPiece - 12, kPiece - 1, kPiece, kPiece + 1, kPiece + 7,
                              2 * kPiece - 11, 3 * kPiece}) {
    Record bytes(length, std::byte{0xEE});
    append_record(bytes, to_bytes("after"));
    const auto found = contents_of(folder, bytes);
    REQUIRE(found.size() == 2);
    CHECK(found[1] == "after");
  }
}

TEST_CASE("record index: a missing end is one damaged record, whatever is left of it") {
  const ScratchFolder folder;
  const Record whole = frames({"first", "second"});
  for (size_t size = 22; size < whole.size(); ++size) {
    const auto found = contents_of(folder, {whole.begin(), whole.begin() + ptrdiff_t(size)});
    REQUIRE(found.size() == 2);
    CHECK(found[0] == "first");
    CHECK(found[1].starts_with("!truncated"));
  }
}

TEST_CASE("record index: an empty file and one of another kind are a damaged record each") {
  const ScratchFolder folder;
  CHECK(contents_of(folder, {}) == std::vector<std::string>{"!the file is empty (0 bytes)"});
  const auto text = contents_of(folder, to_bytes("no records, just a text of some length"));
  REQUIRE(text.size() == 1);
  CHECK(text[0].starts_with("!not a TFRecord file"));
  const auto tiny = contents_of(folder, to_bytes("x"));
  REQUIRE(tiny.size() == 1);
  CHECK(tiny[0].starts_with("!not a TFRecord file: it has 1 bytes"));
}

TEST_CASE("record index: the first frame may be the damaged one") {
  const ScratchFolder folder;
  Record bytes = frames({"first", "second", "third"});
  bytes[9] ^= std::byte{0xFF};
  const auto found = contents_of(folder, bytes);
  REQUIRE(found.size() == 3);
  CHECK(found[0][0] == '!');
  CHECK(found[1] == "second");
  // Even if it then looks like compressed data.
  bytes[0] = std::byte{0x1f};
  bytes[1] = std::byte{0x8b};
  const auto like_gzip = contents_of(folder, bytes);
  REQUIRE(like_gzip.size() == 3);
  CHECK(like_gzip[2] == "third");
}

TEST_CASE("record index: a truncated gzip file gives the records before its missing end") {
  const ScratchFolder folder;
  const Record whole = read_file("test/data/io/gzip.tfrecord");
  const auto good = contents_of(folder, whole);
  REQUIRE(good.size() == 3);
  const auto cut = contents_of(folder, {whole.begin(), whole.end() - 4});
  REQUIRE(cut.size() == 4);
  CHECK(std::equal(good.begin(), good.end(), cut.begin()));
  CHECK(cut[3].find("truncated: the compressed data go on") != std::string::npos);
  const auto half =
      contents_of(folder, {whole.begin(), whole.begin() + ptrdiff_t(whole.size() / 2)});
  REQUIRE(half.size() >= 1);
  CHECK(half.back().find("truncated: the compressed data go on") != std::string::npos);
}

TEST_CASE("record index: raw bytes of a record are the frame as it lies, damaged or not") {
  const ScratchFolder folder;
  Record bytes = frames({"first", "second", "third"});
  bytes[21] ^= std::byte{1};
  write_file(folder / "a", bytes);
  const RecordFile file(folder / "a", kResynchronise);
  Record raw;
  file.read_raw(0, 1000, raw);
  CHECK(raw == Record(bytes.begin(), bytes.begin() + 21));
  file.read_raw(1, 1000, raw);
  CHECK(raw == Record(bytes.begin() + 21, bytes.begin() + 43));
  file.read_raw(1, 5, raw);
  CHECK(raw == Record(bytes.begin() + 21, bytes.begin() + 26));
}

TEST_CASE(
    "record index: any flipped bit or cut loses at most two records, and nothing is invented") {
  const ScratchFolder folder;
  const std::vector<std::string> texts{"first", "", "third record", "4"};
  for_each_damage(frames(texts), [&](const Record& damaged, const std::string& how) {
    INFO(how);
    const auto found = contents_of(folder, damaged);
    size_t next = 0, bad = 0;
    for (const std::string& text : found) {
      if (text.starts_with('!')) {
        ++bad;
        continue;
      }
      const auto at = std::find(texts.begin() + ptrdiff_t(next), texts.end(), text);
      REQUIRE(at != texts.end());
      next = static_cast<size_t>(at - texts.begin()) + 1;
    }
    CHECK(bad <= 1);
    if (how.starts_with("byte")) {
      CHECK(found.size() == texts.size());
      CHECK(bad == 1);
    }
  });
}
