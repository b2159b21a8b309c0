#include "io/tfrecord.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <iomanip>
#include <optional>
#include <thread>
#include <utility>

#include "io/atomic_file.h"
#include "io/crc32c.h"
#include "io/file.h"
#include "io/inflate.h"
#include "io/wire.h"
#include "lib/error.h"

namespace mbconv::io {
namespace {

constexpr size_t kHeader = 12;  // length and its CRC
constexpr size_t kFooter = 4;   // CRC of the data
constexpr size_t kWriteBuffer = size_t{1} << 20;
constexpr size_t kOpeners = 16;  // files opened at the same time

struct Hex {
  uint32_t value;
  friend std::ostream& operator<<(std::ostream& out, Hex hex) {
    return out << "0x" << std::hex << std::setw(8) << std::setfill('0') << hex.value << std::dec;
  }
};

// A CRC as computed and as stored.
struct Crc {
  uint32_t expected, found;
  explicit operator bool() const { return expected == found; }
  friend std::ostream& operator<<(std::ostream& out, Crc crc) {
    return out << "expected " << Hex{crc.expected} << ", found " << Hex{crc.found};
  }
};

Crc length_crc(const std::byte* header) {
  return {masked_crc32c({header, 8}), wire::load<uint32_t>(header + 8)};
}

// True: a plain file. False: a compressed one. Neither: Error.
bool starts_with_header(const InputFile& file) {
  std::vector<std::byte> head(std::min<uint64_t>(kHeader, file.size()));
  file.read_at(0, head);
  if (head.size() == kHeader && length_crc(head.data())) return true;
  if (looks_compressed(head)) return false;
  require(head.size() == kHeader, "not a TFRecord file: it has ", head.size(),
          " bytes, a frame header ", kHeader);
  throw Error("not a TFRecord file: record 0 at offset 0: wrong length CRC: ",
              length_crc(head.data()), "; and no gzip or zlib header");
}

InputFile inflate(const InputFile& compressed) {
  try {
    InputFile inflated = inflate_to_temporary(compressed);
    require(inflated.size() > 0, "it inflates to 0 bytes");
    return inflated;
  } catch (const Error& error) {
    throw Error("no plain TFRecord file, and read as gzip or zlib: ", error.what());
  }
}

// Reads frame headers at ascending offsets. Records are read along, in pieces that grow, as long as
// passing over one takes a disk less time than a read of its own; among larger records each header
// costs one page. 100,000 records of 20 KB on a virtual SSD: read along 2.1 s from the disk and 0.4
// s from the page cache, one page each 6.2 s and 0.2 s.
class HeaderReader {
 public:
  explicit HeaderReader(const InputFile& file) : file_(file) {}

  // The length of the record whose frame begins at `offset`, checked.
  uint64_t length_at(uint64_t offset) {
    const uint64_t left = file_.size() - offset;
    require(left >= kHeader + kFooter, "truncated: ", left,
            " bytes are left, a frame has at least ", kHeader + kFooter);
    const std::byte* header = read(offset);
    const Crc crc = length_crc(header);
    require(bool(crc), "wrong length CRC: ", crc);
    const auto length = wire::load<uint64_t>(header);
    require(length <= left - kHeader - kFooter, "truncated: ", length,
            " bytes of data and their CRC are expected, ", left - kHeader, " bytes are left");
    return length;
  }

 private:
  static constexpr size_t kPage = size_t{4} << 10, kPiece = size_t{512} << 10;
  static constexpr uint64_t kReadAlong = uint64_t{64} << 10;

  const std::byte* read(uint64_t offset) {
    if (offset + kHeader > begin_ + window_.size()) {
      const bool along = !window_.empty() && offset - last_ <= kReadAlong;
      const size_t size = along ? std::min(2 * window_.size(), kPiece) : kPage;
      window_.resize(std::min<uint64_t>(size, file_.size() - offset));
      begin_ = offset;
      file_.read_at(offset, window_);
    }
    last_ = offset;
    return window_.data() + (offset - begin_);
  }

  const InputFile& file_;
  uint64_t begin_ = 0, last_ = 0;
  std::vector<std::byte> window_;
};

// Whether so many descriptors are in use that this one should not stay. They are given lowest
// first, so its number tells.
bool descriptors_are_scarce(const FileDescriptor& file) {
  rlimit limit{};
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
         static_cast<rlim_t>(file.get()) >= limit.rlim_cur / 2;
}

}  // namespace

void append_record(std::vector<std::byte>& out, std::span<const std::byte> data) {
  const size_t start = out.size();
  wire::put<uint64_t>(out, data.size());
  wire::put(out, masked_crc32c(std::span(out).subspan(start, 8)));
  wire::append(out, data);
  wire::put(out, masked_crc32c(data));
}

struct RecordFile::Impl {
  explicit Impl(std::string file_path) : path(std::move(file_path)) {
    InputFile opened(path);
    try {
      require(opened.size() > 0, "the file is empty (0 bytes)");
      if (!starts_with_header(opened)) {
        opened = inflate(opened);
        inflated = true;
      }
      walk(opened);
    } catch (const Error& error) {
      throw Error(path, ": ", error.what());
    }
    if (inflated || !descriptors_are_scarce(opened.descriptor())) file = std::move(opened);
  }

  void walk(const InputFile& opened) {
    // Read-ahead would read most of the data between the headers.
    posix_fadvise(opened.descriptor().get(), 0, 0, POSIX_FADV_RANDOM);
    HeaderReader headers(opened);
    for (uint64_t offset = 0; offset < opened.size();) {
      try {
        records.push_back({offset, headers.length_at(offset)});
      } catch (const Error& error) {
        throw Error(place(records.size(), offset), ": ", error.what());
      }
      offset += kHeader + records.back().length + kFooter;
    }
    posix_fadvise(opened.descriptor().get(), 0, 0, POSIX_FADV_NORMAL);
  }

  std::string place(size_t record, uint64_t offset) const {
    std::ostringstream out;
    out << "record " << record << " at offset " << offset << (inflated ? " (inflated)" : "");
    return out.str();
  }

  std::string path;
  bool inflated = false;
  std::optional<InputFile> file;  // none: opened for each read
  std::vector<RecordLocation> records;
};

RecordFile::RecordFile(std::string path) : impl_(std::make_unique<Impl>(std::move(path))) {}
RecordFile::~RecordFile() = default;
RecordFile::RecordFile(RecordFile&&) noexcept = default;
RecordFile& RecordFile::operator=(RecordFile&&) noexcept = default;

const std::string& RecordFile::path() const {
  return impl_->path;
}
size_t RecordFile::size() const {
  return impl_->records.size();
}

RecordLocation RecordFile::location(size_t record) const {
  require(record < size(), path(), ": no record ", record, ", the file has ", size());
  return impl_->records[record];
}

std::string RecordFile::describe(size_t record) const {
  return path() + ": " + impl_->place(record, location(record).offset);
}

void RecordFile::read(size_t record, std::vector<std::byte>& out) const {
  const auto [offset, length] = location(record);
  out.resize(length + kFooter);
  try {
    if (impl_->file) {
      impl_->file->read_at(offset + kHeader, out);
    } else {
      InputFile(path()).read_at(offset + kHeader, out);
    }
    const Crc crc{masked_crc32c(std::span(out).first(length)),
                  wire::load<uint32_t>(out.data() + length)};
    if (!crc) throw Error("wrong data CRC: ", crc);
  } catch (const Error& error) {
    throw Error(describe(record), ": ", error.what());
  }
  out.resize(length);
}

RecordSet::RecordSet(const std::string& pattern) {
  const std::vector<std::string> paths = match_files(pattern);
  std::vector<std::optional<RecordFile>> opened(paths.size());
  std::vector<std::exception_ptr> errors(paths.size());
  std::atomic<size_t> next{0};
  const auto open_files = [&] {
    for (size_t f; (f = next++) < paths.size();) {
      try {
        opened[f].emplace(paths[f]);
      } catch (...) {
        errors[f] = std::current_exception();
        next =
            paths.size();  // The files before this one are being opened: the first error is kept.
      }
    }
  };
  {
    std::vector<std::jthread> openers;
    for (size_t i = 1; i < std::min(kOpeners, paths.size()); ++i) openers.emplace_back(open_files);
    open_files();
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  starts_.push_back(0);
  for (std::optional<RecordFile>& file : opened) {
    starts_.push_back(starts_.back() + file->size());
    files_.push_back(std::move(*file));
  }
}

RecordSet::Place RecordSet::place(size_t record) const {
  require(record < size(), "no record ", record, ", the files have ", size());
  const auto after = std::upper_bound(starts_.begin(), starts_.end(), record);
  const auto file = static_cast<size_t>(after - starts_.begin()) - 1;
  return {file, record - starts_[file]};
}

void RecordSet::read(size_t record, std::vector<std::byte>& out) const {
  const Place p = place(record);
  files_[p.file].read(p.record, out);
}

std::string RecordSet::describe(size_t record) const {
  const Place p = place(record);
  return files_[p.file].describe(p.record);
}

struct RecordWriter::Impl {
  explicit Impl(const std::string& path) : file(path) {}

  void flush() {
    file.write(pending);
    pending.clear();
  }

  AtomicFile file;
  std::vector<std::byte> pending;
};

RecordWriter::RecordWriter(const std::string& path) : impl_(std::make_unique<Impl>(path)) {}
RecordWriter::~RecordWriter() = default;

void RecordWriter::write(std::span<const std::byte> data) {
  append_record(impl_->pending, data);
  if (impl_->pending.size() >= kWriteBuffer) impl_->flush();
}

void RecordWriter::close() {
  impl_->flush();
  impl_->file.commit();
}

}  // namespace mbconv::io
