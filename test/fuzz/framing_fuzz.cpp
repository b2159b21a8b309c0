// Bytes as a file of records: they are indexed and read, or refused with an Error; an index
// survives its cache, resynchronising loses nothing that a strict reader finds, and compressed data
// read in place are the inflated ones.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "io/inflated_data.h"
#include "io/tfrecord.h"

using namespace mbconv;
using namespace mbconv::io;

namespace {

void expect(bool condition) {
  if (!condition) std::abort();
}

// A file in memory that has a name.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("fuzz", 0)) { expect(fd_ >= 0); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }
  void set(const uint8_t* data, size_t size) {
    expect(ftruncate(fd_, 0) == 0);
    expect(pwrite(fd_, data, size, 0) == static_cast<ssize_t>(size));
  }

 private:
  int fd_;
};

constexpr size_t kMost = 3;  // damaged records that are read: throwing takes most of the time

// Reads all records, or up to the last of kMost that are damaged; returns how many of them are.
size_t read_all(const RecordFile& file) {
  size_t damaged = 0;
  std::vector<std::byte> record;
  for (size_t i = 0; i < file.size() && damaged < kMost; ++i) {
    try {
      file.read(i, record);
      expect(record.size() == file.location(i).length);
    } catch (const DamagedRecord&) {
      ++damaged;
    }
    file.read_raw(i, 1 << 16, record);
  }
  return damaged;
}

// Damaged messages included.
std::string text_of(const RecordFile& file, size_t record) {
  std::vector<std::byte> out;
  try {
    file.read(record, out);
  } catch (const DamagedRecord& e) {
    return e.what();
  }
  return {reinterpret_cast<const char*>(out.data()), out.size()};
}

void check_in_place(const std::string& path, const RecordFile& copied) {
  const RecordLocation last = copied.location(copied.size() - 1);
  if (last.offset + last.length > 1 << 14) return;  // more only takes time
  const RecordFile in_place(path,
                            {OnDamage::resynchronise, nullptr, std::make_shared<PieceCache>(1000)});
  if (!in_place.inflates()) return;
  expect(in_place.size() == copied.size());
  for (size_t i = copied.size() - std::min(kMost, copied.size()); i < copied.size(); ++i)
    expect(text_of(in_place, i) == text_of(copied, i));
}

void check_cached(const std::string& path) {
  const InputFile file(path);
  if (file.size() == 0) return;
  const RecordIndex index = index_records(file, OnDamage::resynchronise);
  const auto read = decode_index(encode_index({stamp_of(file), false, file.size(), {}, index}));
  expect(read && read->index == index);
  uint64_t end = 0;
  for (size_t i = 0; i < index.records.size(); ++i) {
    const bool damaged = index.fault(i) != nullptr;
    expect(index.records[i].offset == end);
    end += index.records[i].length + (damaged ? 0 : kFrameHeader + kFrameFooter);
  }
  expect(end == file.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static MemoryFile memory;
  memory.set(data, size);
  const std::string path = memory.path();
  const RecordFile lenient(path, {OnDamage::resynchronise, nullptr});
  const size_t damaged = read_all(lenient);
  if (damaged == 0) {
    const RecordFile strict(path);  // throws nothing
    expect(strict.size() == lenient.size());
    expect(read_all(strict) == 0);
  }
  check_cached(path);
  if (looks_compressed(std::as_bytes(std::span(data, size)))) check_in_place(path, lenient);
  decode_index(std::as_bytes(std::span(data, size)));
  return 0;
}
