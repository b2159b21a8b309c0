#include "io/index_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "io/crc32c.h"
#include "io/wire.h"

namespace mbconv::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "mbconv index 2\n";  // the number is the format's version
constexpr int64_t kJustChanged = 20'000'000;             // ns: more than two ticks of a kernel

int64_t in_nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// Reads varints and strings; `good` is false once the data do not hold what is read.
struct Input {
  std::span<const std::byte> rest;
  bool good = true;

  uint64_t number() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !rest.empty(); shift += 7) {
      const auto byte = std::to_integer<uint64_t>(rest.front());
      rest = rest.subspan(1);
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    good = false;
    return 0;
  }

  // A count of things that take at least one byte each.
  size_t count() {
    const uint64_t value = number();
    if (value > rest.size()) good = false;
    return good ? value : 0;
  }

  std::vector<std::byte> bytes() {
    const auto out = rest.first(count());
    rest = rest.subspan(out.size());
    return {out.begin(), out.end()};
  }

  std::string text() {
    const std::vector<std::byte> out = bytes();
    return {reinterpret_cast<const char*>(out.data()), out.size()};
  }
};

void put_sized(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
  wire::put_varint(out, bytes.size());
  wire::append(out, bytes);
}

void put_point(std::vector<std::byte>& out, const AccessPoint& point) {
  wire::put_varint(out, point.inflated);
  wire::put_varint(out, point.compressed);
  wire::put_varint(out, point.bits);
  wire::put_varint(out, point.check);
  put_sized(out, point.window);
}

AccessPoint read_point(Input& in) {
  AccessPoint point{in.number(), in.number(), 0, 0, {}};
  point.bits = static_cast<unsigned>(in.number());
  point.check = static_cast<unsigned>(in.number());
  point.window = in.bytes();
  return point;
}

// They ascend from the begin of the file, and bits are of a byte in it.
bool read_points(Input& in, ShardIndex& out) {
  const size_t points = in.count();
  for (size_t i = 0; i < points && in.good; ++i) {
    AccessPoint point = read_point(in);
    const bool follows =
        i == 0 ? point == AccessPoint{} : point.inflated > out.points.back().inflated;
    if (!follows || point.inflated > out.bytes || point.compressed > out.source.size ||
        point.bits > std::min<uint64_t>(7, 8 * point.compressed))
      return false;
    out.points.push_back(std::move(point));
  }
  return in.good;
}

void put_fault(std::vector<std::byte>& out, const DamagedFrame& frame) {
  wire::put_varint(out, frame.record);
  put_sized(out, std::as_bytes(std::span(frame.fault.reason)));
  wire::put_varint(out, frame.fault.crc ? 1 : 0);
  wire::put_varint(out, frame.fault.crc ? frame.fault.crc->expected : 0);
  wire::put_varint(out, frame.fault.crc ? frame.fault.crc->found : 0);
}

DamagedFrame read_fault(Input& in) {
  DamagedFrame frame{in.number(), {in.text(), {}}};
  const bool has_crc = in.number() != 0;
  const auto expected = static_cast<uint32_t>(in.number());
  const auto found = static_cast<uint32_t>(in.number());
  if (has_crc) frame.fault.crc = Crc{expected, found};
  return frame;
}

// Frames follow each other, so lengths tell the offsets.
bool read_records(Input& in, ShardIndex& out) {
  const size_t damaged = in.count();
  for (size_t i = 0; i < damaged && in.good; ++i) out.index.damaged.push_back(read_fault(in));
  const size_t records = in.count();
  out.index.records.reserve(records);
  uint64_t offset = 0;
  for (size_t i = 0, d = 0; i < records && in.good; ++i) {
    const uint64_t length = in.number();
    const bool bad = d < damaged && out.index.damaged[d].record == i;
    const uint64_t frame = bad ? 0 : kFrameHeader + kFrameFooter;
    if (length > out.bytes || offset > out.bytes - length || frame > out.bytes - length - offset)
      return false;
    out.index.records.push_back({offset, length});
    offset += length + frame;
    d += bad ? 1 : 0;
  }
  return in.good && in.rest.empty() && offset == out.bytes && !out.index.records.empty();
}

// Puts a file in place with one rename, so that readers see all of it or none. Not synced: the
// checksum tells what a crash has left. Returns 0 or the errno.
int put_file(const std::string& path, std::span<const std::byte> bytes) {
  static std::atomic<unsigned> number{0};
  const std::string temporary =
      path + "." + std::to_string(getpid()) + "." + std::to_string(number++) + ".tmp";
  const FileDescriptor file(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!file.valid()) return errno;
  int error = write_all(file, bytes);
  if (error == 0 && std::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) unlink(temporary.c_str());
  return error;
}

}  // namespace

FileStamp stamp_of(const InputFile& file) {
  struct stat info {};
  if (fstat(file.descriptor().get(), &info) != 0)
    throw Error("cannot stat: ", system_reason(errno));
  return {file.size(), in_nanoseconds(info.st_mtim), in_nanoseconds(info.st_ctim)};
}

std::vector<std::byte> encode_index(const ShardIndex& index) {
  std::vector<std::byte> out;
  wire::append(out, std::as_bytes(std::span(kMagic)));
  wire::put(out, index.source.size);
  wire::put(out, index.source.modified);
  wire::put(out, index.source.changed);
  wire::put_varint(out, index.inflated ? 1 : 0);
  wire::put_varint(out, index.bytes);
  wire::put_varint(out, index.points.size());
  for (const AccessPoint& point : index.points) put_point(out, point);
  wire::put_varint(out, index.index.damaged.size());
  for (const DamagedFrame& frame : index.index.damaged) put_fault(out, frame);
  wire::put_varint(out, index.index.records.size());
  for (const RecordLocation& record : index.index.records) wire::put_varint(out, record.length);
  wire::put(out, crc32c(out));
  return out;
}

std::optional<ShardIndex> decode_index(std::span<const std::byte> bytes) {
  constexpr size_t kStamp = 24, kCrc = 4;
  if (bytes.size() < kMagic.size() + kStamp + kCrc) return {};
  if (std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) return {};
  const auto body = bytes.first(bytes.size() - kCrc);
  if (crc32c(body) != wire::load<uint32_t>(body.data() + body.size())) return {};
  const std::byte* stamp = body.data() + kMagic.size();
  ShardIndex out;
  out.source = {wire::load<uint64_t>(stamp), wire::load<int64_t>(stamp + 8),
                wire::load<int64_t>(stamp + 16)};
  Input in{body.subspan(kMagic.size() + kStamp)};
  out.inflated = in.number() != 0;
  out.bytes = in.number();
  if (!read_points(in, out) || !read_records(in, out)) return {};
  return out;
}

IndexCache::IndexCache(std::string folder) : folder_(std::move(folder)) {
  std::error_code error;
  fs::create_directories(folder_, error);
  require(!error, "cannot create the cache folder ", folder_, ": ", error.message());
  const std::string probe = (fs::path(folder_) / "writable").string();
  const int failed = put_file(probe, {});
  require(failed == 0, "cannot write to the cache folder ", folder_, ": ", system_reason(failed));
  unlink(probe.c_str());
}

// Files of one name in several folders are told apart by a checksum of the whole path.
std::string IndexCache::name_in_folder(const std::string& path) const {
  const std::string whole = fs::absolute(path).lexically_normal().string();
  char suffix[16];
  std::snprintf(suffix, sizeof suffix, "-%08x", crc32c(std::as_bytes(std::span(whole))));
  return (fs::path(folder_) / (fs::path(path).filename().string() + suffix)).string();
}

std::string IndexCache::index_path(const std::string& path) const {
  if (!folder_.empty()) return name_in_folder(path) + ".index";
  const fs::path file(path);
  return (file.parent_path() / ".").string() + file.filename().string() + ".mbconv-index";
}

std::string IndexCache::inflated_path(const std::string& path) const {
  return folder_.empty() ? "" : name_in_folder(path) + ".inflated";
}

std::optional<ShardIndex> IndexCache::load(const std::string& path, const FileStamp& stamp) const {
  std::vector<std::byte> bytes;
  try {
    const InputFile file(index_path(path));
    bytes.resize(file.size());
    file.read_at(0, bytes);
  } catch (const Error&) {
    return {};  // no index, or one that cannot be read: it is made anew
  }
  std::optional<ShardIndex> index = decode_index(bytes);
  if (index && index->source != stamp) return {};
  return index;
}

void IndexCache::store(const std::string& path, const ShardIndex& index) const {
  using namespace std::chrono;
  const int64_t now =
      duration_cast<std::chrono::nanoseconds>(system_clock::now().time_since_epoch()).count();
  if (std::abs(now - index.source.modified) < kJustChanged) return;
  const int error = put_file(index_path(path), encode_index(index));
  if (error == 0) return;
  const std::string text = index_path(path) + ": " + system_reason(error);
  require(folder_.empty(), "cannot write ", text);
  const std::lock_guard lock(mutex_);
  unkept_ = text;
}

std::string IndexCache::unkept() const {
  const std::lock_guard lock(mutex_);
  return unkept_;
}

}  // namespace mbconv::io
