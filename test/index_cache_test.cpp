#include "io/index_cache.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <chrono>
#include <ctime>
#include <thread>

#include "io/tfrecord.h"
#include "test/io_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace fs = std::filesystem;

namespace {

using Record = std::vector<std::byte>;

Record frames(const std::vector<std::string>& texts) {
  Record out;
  for (const std::string& text : texts) append_record(out, to_bytes(text));
  return out;
}

// A file as it would be an hour later: one changed this instant is not cached.
void write_old(const std::string& path, const Record& bytes) {
  write_file(path, bytes);
  timespec times[2];
  clock_gettime(CLOCK_REALTIME, &times[0]);
  times[0].tv_sec -= 3600;
  times[1] = times[0];
  REQUIRE(utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
}

std::string text_of(const RecordFile& file, size_t record) {
  Record out;
  file.read(record, out);
  return to_text(out);
}

RecordFile open_cached(const std::string& path, const IndexCache& cache,
                       OnDamage on_damage = OnDamage::stop) {
  return RecordFile(path, {on_damage, &cache});
}

ShardIndex some_index() {
  ShardIndex index;
  index.source = {1234, 5678901234567890, -5};
  index.bytes = 16 + 100 + 22 + 16;
  index.points = {{}, {40, 20, 3, 8, to_bytes("what comes before")}, {90, 61, 0, 0, {}}};
  index.index.records = {{0, 100}, {116, 22}, {138, 0}};
  index.index.damaged = {{1, {"wrong length CRC", Crc{0xFFFFFFFF, 7}}}};
  return index;
}

}  // namespace

TEST_CASE("index cache: an index comes back from its bytes as it was") {
  const ShardIndex index = some_index();
  const auto read = decode_index(encode_index(index));
  REQUIRE(read.has_value());
  CHECK(read->source == index.source);
  CHECK(read->bytes == index.bytes);
  CHECK(read->inflated == index.inflated);
  CHECK(read->points == index.points);
  CHECK(read->index == index.index);
}

TEST_CASE("index cache: access points that cannot be are no index") {
  const auto with = [](const std::vector<AccessPoint>& points) {
    ShardIndex index = some_index();
    index.points = points;
    return decode_index(encode_index(index));
  };
  CHECK(with({{}, {154, 1234, 7, 4, {}}}).has_value());
  CHECK(!with({{1, 0, 0, 0, {}}}).has_value());  // not from the begin
  CHECK(!with({{}, {}}).has_value());            // twice the same place
  CHECK(!with({{}, {40, 20, 0, 8, {}}, {39, 21, 0, 8, {}}}).has_value());
  CHECK(!with({{}, {155, 20, 0, 8, {}}}).has_value());   // behind the data
  CHECK(!with({{}, {40, 1235, 0, 8, {}}}).has_value());  // behind the file
  CHECK(!with({{}, {40, 20, 8, 8, {}}}).has_value());    // more bits than a byte
  CHECK(!with({{}, {40, 0, 1, 8, {}}}).has_value());     // bits of no byte
}

TEST_CASE("index cache: bytes that are cut, changed or of another version are no index") {
  for_each_damage(encode_index(some_index()), [](const Record& damaged, const std::string& how) {
    INFO(how);
    CHECK(!decode_index(damaged).has_value());
  });
  CHECK(!decode_index({}).has_value());
}

TEST_CASE("index cache: an index is kept beside the data, hidden from globs, and used again") {
  const ScratchFolder folder;
  write_old(folder / "a.tfrecord", frames({"one", "two"}));
  const IndexCache cache;
  CHECK(open_cached(folder / "a.tfrecord", cache).size() == 2);
  const std::string kept = folder / ".a.tfrecord.mbconv-index";
  REQUIRE(fs::exists(kept));
  CHECK(match_files(folder / "*").size() == 1);
  const auto before = fs::last_write_time(kept);
  const RecordFile again = open_cached(folder / "a.tfrecord", cache);
  CHECK(text_of(again, 1) == "two");
  CHECK(fs::last_write_time(kept) == before);
  // It is what is read: another index in its place shows.
  const InputFile source(folder / "a.tfrecord");
  ShardIndex other{stamp_of(source), false, 38, {}, {{{0, 22}}, {}}};
  write_file(kept, encode_index(other));
  CHECK(open_cached(folder / "a.tfrecord", cache).size() == 1);
}

TEST_CASE("index cache: a file that has changed in size or time is indexed anew") {
  const ScratchFolder folder;
  const std::string path = folder / "a";
  const IndexCache cache;
  write_old(path, frames({"one", "two"}));
  CHECK(open_cached(path, cache).size() == 2);
  write_old(path, frames({"one", "two", "three"}));
  CHECK(open_cached(path, cache).size() == 3);
  // Of the same size, with the old time put back: the time of the change itself tells.
  const auto time = fs::last_write_time(path);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  write_file(path, frames({"o", "two and", "th"}));
  fs::last_write_time(path, time);
  const RecordFile file = open_cached(path, cache);
  CHECK(text_of(file, 1) == "two and");
}

TEST_CASE("index cache: a damaged cache file is rebuilt") {
  const ScratchFolder folder;
  const std::string path = folder / "a", kept = folder / ".a.mbconv-index";
  const IndexCache cache;
  write_old(path, frames({"one", "two"}));
  open_cached(path, cache);
  const Record good = read_file(kept);
  Record damaged = good;
  damaged[damaged.size() / 2] ^= std::byte{4};
  for (const Record& bytes : {damaged, Record(), Record(good.begin(), good.end() - 1)}) {
    write_file(kept, bytes);
    CHECK(open_cached(path, cache).size() == 2);
    CHECK(read_file(kept) == good);
  }
}

TEST_CASE("index cache: a record that changed behind an index that still fits is an error") {
  const ScratchFolder folder;
  const std::string path = folder / "a";
  write_old(path, frames({"one", "two and"}));
  const InputFile source(path);
  // Lies about the data, as if the file had been changed without a trace.
  write_file(folder / ".a.mbconv-index",
             encode_index({stamp_of(source), false, 42, {}, {{{0, 7}, {23, 3}}, {}}}));
  const RecordFile file = open_cached(path, IndexCache());
  Record record;
  check_names(error_of([&] { file.read(0, record); }), path, "record 0 at offset 0",
              "has changed since it was indexed");
  check_names(error_of([&] { file.read(1, record); }), "record 1 at offset 23", "CRC");
}

TEST_CASE("index cache: where nothing can be written beside the data, it tells and goes on") {
  const ScratchFolder folder;
  write_old(folder / "a", frames({"one"}));
  REQUIRE(mkdir((folder / ".a.mbconv-index").c_str(), 0700) == 0);  // in the way
  const IndexCache cache;
  CHECK(cache.unkept().empty());
  CHECK(open_cached(folder / "a", cache).size() == 1);
  CHECK(open_cached(folder / "a", cache).size() == 1);
  check_names(cache.unkept(), folder / ".a.mbconv-index", "Is a directory");
  CHECK(folder.files() == 2);
}

TEST_CASE("index cache: a folder that cannot be written is an error that names it") {
  const ScratchFolder folder;
  write_file(folder / "file", to_bytes("no folder"));
  check_names(error_of([&] { IndexCache cache(folder / "file"); }), "cache folder",
              folder / "file");
  check_names(error_of([&] { IndexCache cache(folder / "file/below"); }), folder / "file/below");
  write_old(folder / "a", frames({"one"}));
  const IndexCache cache(folder / "cache");
  fs::remove_all(folder / "cache");
  check_names(error_of([&] { open_cached(folder / "a", cache); }), folder / "cache",
              "cannot write");
}

TEST_CASE("index cache: files of one name in several folders have indexes of their own") {
  const ScratchFolder folder;
  const IndexCache cache(folder / "cache");
  for (const char* name : {"x", "y"}) {
    REQUIRE(mkdir((folder / name).c_str(), 0700) == 0);
    write_old(folder / name + "/a", frames({name}));
    CHECK(open_cached(folder / name + "/a", cache).size() == 1);
  }
  CHECK(std::distance(fs::directory_iterator(folder / "cache"), {}) == 2);
  CHECK(!fs::exists(folder / "x/.a.mbconv-index"));
}

TEST_CASE("index cache: a compressed file is inflated once into the folder") {
  const ScratchFolder folder;
  const std::string path = folder / "a";
  const Record gzip = read_file("test/data/io/gzip.tfrecord");
  write_old(path, gzip);
  const IndexCache cache(folder / "cache");
  const std::string first = text_of(open_cached(path, cache), 2);
  const std::string data = cache.inflated_path(path);
  REQUIRE(fs::exists(data));
  CHECK(read_file(data) == read_file("test/data/io/plain.tfrecord"));
  const auto before = fs::last_write_time(data);
  const RecordFile again = open_cached(path, cache);
  CHECK(text_of(again, 2) == first);
  CHECK(again.describe(2).find("(inflated)") != std::string::npos);
  CHECK(fs::last_write_time(data) == before);
  // Inflated data that were removed or cut are made again.
  fs::resize_file(data, 10);
  CHECK(text_of(open_cached(path, cache), 2) == first);
  fs::remove(data);
  CHECK(text_of(open_cached(path, cache), 2) == first);
  CHECK(fs::exists(data));
}

TEST_CASE("index cache: inflated data that another process is writing are not waited for") {
  const ScratchFolder folder;
  const std::string path = folder / "a";
  write_old(path, read_file("test/data/io/gzip.tfrecord"));
  const IndexCache cache(folder / "cache");
  RecordWriter other(cache.inflated_path(path));  // holds the lock
  CHECK(open_cached(path, cache).size() == 3);
  CHECK(!fs::exists(cache.inflated_path(path)));
}

TEST_CASE(
    "index cache: a strict opening does not keep an index that ends early, a lenient one does") {
  const ScratchFolder folder;
  const std::string path = folder / "a";
  Record bytes = frames({"one", "two", "three"});
  bytes[19] ^= std::byte{1};
  write_old(path, bytes);
  const IndexCache cache;
  check_names(error_of([&] { open_cached(path, cache); }), "record 1 at offset 19");
  CHECK(!fs::exists(folder / ".a.mbconv-index"));
  CHECK(open_cached(path, cache, OnDamage::resynchronise).size() == 3);
  REQUIRE(fs::exists(folder / ".a.mbconv-index"));
  CHECK(open_cached(path, cache, OnDamage::resynchronise).size() == 3);
  // The strict one finds the damage in the kept index, too.
  check_names(error_of([&] { open_cached(path, cache); }), path, "record 1 at offset 19",
              "wrong length CRC: expected 0x");
}

TEST_CASE("index cache: a file changed this instant is not kept") {
  const ScratchFolder folder;
  const IndexCache cache;
  for (int tries = 0; tries < 50; ++tries) {
    write_file(folder / "a", frames({"one"}));
    open_cached(folder / "a", cache);
    if (!fs::exists(folder / ".a.mbconv-index")) return;
    fs::remove(folder / ".a.mbconv-index");
  }
  FAIL("an index was kept each time");
}

TEST_CASE("index cache: 100,000 records come from the cache well under a second") {
  const ScratchFolder folder;
  const Record one = frames({std::string(300, 'x')});
  Record all;
  for (int i = 0; i < 100000; ++i) all.insert(all.end(), one.begin(), one.end());
  write_old(folder / "a", all);
  const IndexCache cache;
  open_cached(folder / "a", cache);
  REQUIRE(fs::exists(folder / ".a.mbconv-index"));
  const std::clock_t start = std::clock();
  CHECK(open_cached(folder / "a", cache).size() == 100000);
  CHECK(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC < 0.1);
}
