#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/record_set.h"
#include "test/io_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

using Record = std::vector<std::byte>;

// Not by RecordWriter, which syncs each file.
void write_records(const std::string& path, const std::vector<std::string>& texts) {
  Record frames;
  for (const std::string& text : texts) append_record(frames, to_bytes(text));
  write_file(path, frames);
}

}  // namespace

TEST_CASE("match_files: sorted, each file once, patterns joined by commas") {
  const ScratchFolder folder;
  for (const char* name : {"b-2.x", "b-10.x", "a.y", "c,d.x", "w[1].x"}) {
    write_file(folder / name, {});
  }
  CHECK(match_files(folder / "b-*.x") ==
        std::vector<std::string>{folder / "b-10.x", folder / "b-2.x"});
  CHECK(match_files(folder / "b-2.x" + "," + folder / "*.y" + "," + folder / "b*") ==
        std::vector<std::string>{folder / "a.y", folder / "b-10.x", folder / "b-2.x"});
  CHECK(match_files(folder / "c?d.x") == std::vector<std::string>{folder / "c,d.x"});
  CHECK(match_files(folder / "w[1].x") == std::vector<std::string>{folder / "w[1].x"});
}

TEST_CASE("match_files: a pattern without a match, a folder, an unreadable file are named") {
  const ScratchFolder folder;
  write_file(folder / "a.x", {});
  REQUIRE(mkdir((folder / "sub").c_str(), 0700) == 0);
  const auto error = [](const std::string& pattern) {
    return error_of([&] { match_files(pattern); });
  };
  check_names(error(folder / "*.z"), "no file matches", folder / "*.z");
  check_names(error(folder / "a.x" + "," + folder / "*.z"), "no file matches '" + folder / "*.z");
  check_names(error(folder / "none/*.x"), "no file matches");
  check_names(error(""), "no file matches ''");
  check_names(error(folder / "*"), folder / "sub", "is a folder");
  REQUIRE(symlink("nowhere", (folder / "dangling.x").c_str()) == 0);
  check_names(error(folder / "d*.x"), folder / "dangling.x", "cannot be read", "No such file");
}

TEST_CASE("record set: files follow each other, and descriptions name file, record and offset") {
  const ScratchFolder folder;
  write_records(folder / "1.tfrecord", {"a", "b"});
  write_records(folder / "2.tfrecord", {"c"});
  write_records(folder / "3.tfrecord", {"d", "e", "f"});
  const RecordSet set(folder / "*.tfrecord");
  CHECK(set.files() == 3);
  REQUIRE(set.size() == 6);
  std::string all;
  Record record;
  for (size_t i = 0; i < 6; ++i) {
    set.read(i, record);
    all += to_text(record);
  }
  CHECK(all == "abcdef");
  CHECK(set.describe(2) == folder / "2.tfrecord" + ": record 0 at offset 0");
  CHECK(set.describe(5) == folder / "3.tfrecord" + ": record 2 at offset 34");
  check_names(error_of([&] { set.read(6, record); }), "no record 6", "6");
}

TEST_CASE("record set: of several bad files the first by name is reported, every time") {
  const ScratchFolder folder;
  for (int i = 10; i < 60; ++i) write_records(folder / std::to_string(i), {"record"});
  for (const char* name : {"30", "31", "55"})
    write_file(folder / name, to_bytes("not a record..."));
  for (int repeat = 0; repeat < 20; ++repeat) {
    check_names(error_of([&] { RecordSet set(folder / "*"); }), folder / "30:");
  }
}

TEST_CASE("record set: more files than the process may have open") {
  const ScratchFolder folder;
  for (int i = 100; i < 220; ++i) write_records(folder / std::to_string(i), {std::to_string(i)});
  const Limit limit(RLIMIT_NOFILE, 80);
  const RecordSet set(folder / "*");
  REQUIRE(set.size() == 120);
  Record record;
  for (size_t i = 0; i < set.size(); ++i) {
    set.read(i, record);
    CHECK(to_text(record) == std::to_string(100 + i));
  }
  // Half of the descriptors are left to others.
  const int next = dup(0);
  CHECK(next >= 0);
  CHECK(next <= 80 / 2);
  close(next);
}

TEST_CASE("record writer: what it writes is read back, and appears only when it is closed") {
  const ScratchFolder folder;
  RecordWriter writer(folder / "a");
  writer.write(to_bytes("one"));
  CHECK(!std::filesystem::exists(folder / "a"));
  const std::string large(3 << 20, 'L');
  writer.write(to_bytes(large));
  writer.write({});
  writer.close();
  CHECK(folder.files() == 1);
  const RecordFile file(folder / "a");
  REQUIRE(file.size() == 3);
  Record record;
  file.read(1, record);
  CHECK(to_text(record) == large);
  CHECK(file.location(2).length == 0);
  CHECK_THROWS_AS(writer.close(), Error);
}

TEST_CASE("record writer: without close nothing is left, and the old file stays") {
  const ScratchFolder folder;
  write_file(folder / "a", to_bytes("old"));
  {
    RecordWriter writer(folder / "a");
    writer.write(Record(2 << 20));
  }
  CHECK(folder.files() == 1);
  CHECK(to_text(read_file(folder / "a")) == "old");
}

TEST_CASE("record writer: a full disk is an error that names the file, at the latest at close") {
  const ScratchFolder folder;
  {
    const Limit limit(RLIMIT_FSIZE, 1000);
    RecordWriter writer(folder / "small");
    writer.write(Record(2000));
    check_names(error_of([&] { writer.close(); }), folder / "small", "File too large");
    RecordWriter large(folder / "large");
    check_names(error_of([&] { large.write(Record(2 << 20)); }), folder / "large",
                "File too large");
  }
  CHECK(folder.files() == 0);
}
