#include "io/inflate.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "lib/error.h"

namespace mbconv::io {
namespace {

constexpr size_t kCompressed = size_t{64} << 10, kInflated = size_t{256} << 10;
constexpr int kAnyHeader = MAX_WBITS + 32, kNoHeader = -MAX_WBITS;  // of inflateInit2
// Of z_stream::data_type: at the end of a header or block; in the last block of a member.
constexpr int kBlockBegins = 128, kLastBlock = 64;

}  // namespace

bool looks_compressed(std::span<const std::byte> head) {
  if (head.size() < 2) return false;
  const auto first = static_cast<unsigned>(head[0]), second = static_cast<unsigned>(head[1]);
  const bool gzip = first == 0x1f && second == 0x8b;
  // RFC 1950: method 8 (deflate), window of at most 2^15, and the check over both bytes.
  const bool zlib = (first & 0x0f) == 8 && first >> 4 <= 7 && (first * 256 + second) % 31 == 0;
  return gzip || zlib;
}

InflateStream::InflateStream(const InputFile& compressed, const AccessPoint& from)
    : compressed_(compressed),
      in_(std::min<uint64_t>(kCompressed, compressed.size())),
      inflated_(from.inflated),
      next_(from.compressed),
      check_(from.check),
      headless_(from.check > 0),
      between_(from.check == 0) {
  std::byte before{};
  if (from.bits > 0) compressed.read_at(from.compressed - 1, {&before, 1});
  const int result = inflateInit2(&stream_, headless_ ? kNoHeader : kAnyHeader);
  require(result == Z_OK, "out of memory for inflating");
  if (from.bits > 0) {
    const int bits = static_cast<int>(from.bits);
    inflatePrime(&stream_, bits, std::to_integer<int>(before) >> (8 - bits));
  }
  if (!from.window.empty()) {
    inflateSetDictionary(&stream_, reinterpret_cast<const Bytef*>(from.window.data()),
                         static_cast<uInt>(from.window.size()));
  }
}

void InflateStream::read_compressed() {
  const auto chunk =
      std::span(in_).first(std::min<uint64_t>(in_.size(), compressed_.size() - next_));
  compressed_.read_at(next_, chunk);
  next_ += chunk.size();
  stream_.next_in = reinterpret_cast<Bytef*>(in_.data());
  stream_.avail_in = static_cast<uInt>(chunk.size());
}

void InflateStream::begin_member() {
  inflateReset2(&stream_, kAnyHeader);
  check_ = *stream_.next_in == 0x1f ? 8 : 4;  // gzip: CRC-32 and size, zlib: Adler-32
  headless_ = false;
}

// Of a member begun at a block; where it has seen the header, zlib skips it.
void InflateStream::skip_check() {
  next_ = std::min<uint64_t>(next_ - stream_.avail_in + check_, compressed_.size());
  stream_.avail_in = 0;
}

void InflateStream::add_point(AccessPoints& passed, uint64_t inflated) {
  if (inflated / passed.spacing == passed.points.back().inflated / passed.spacing) return;
  AccessPoint point{inflated, next_ - stream_.avail_in, 0, 0, {}};
  if (!between_) {
    point.bits = static_cast<unsigned>(stream_.data_type) & 7;
    point.check = check_;
    point.window.resize(size_t{1} << MAX_WBITS);
    uInt size = 0;
    inflateGetDictionary(&stream_, reinterpret_cast<Bytef*>(point.window.data()), &size);
    point.window.resize(size);
  }
  passed.points.push_back(std::move(point));
}

size_t InflateStream::read(std::span<std::byte> out, AccessPoints* passed) {
  stream_.next_out = reinterpret_cast<Bytef*>(out.data());
  stream_.avail_out = static_cast<uInt>(out.size());
  while (stream_.avail_out > 0 && damage_.empty()) {
    if (stream_.avail_in == 0) read_compressed();
    const bool at_end = stream_.avail_in == 0;
    if (between_ && at_end) break;
    if (between_) begin_member();
    const int result = ::inflate(&stream_, passed != nullptr ? Z_BLOCK : Z_NO_FLUSH);
    const bool at_block = (stream_.data_type & kBlockBegins) != 0;
    between_ = result == Z_STREAM_END;
    if (result == Z_BUF_ERROR && at_end && !at_block) {
      damage_ = "truncated: the compressed data go on past the end of the file, byte " +
                std::to_string(compressed_.size());
    } else if (result != Z_OK && !between_ && result != Z_BUF_ERROR) {
      damage_ = "damaged compressed data at byte " + std::to_string(next_ - stream_.avail_in) +
                ": " + (stream_.msg != nullptr ? stream_.msg : "no reason given");
    }
    if (between_ && headless_) skip_check();
    const bool resumable = between_ || (at_block && (stream_.data_type & kLastBlock) == 0);
    if (passed != nullptr && resumable && damage_.empty())
      add_point(*passed, inflated_ + out.size() - stream_.avail_out);
  }
  const size_t size = out.size() - stream_.avail_out;
  inflated_ += size;
  return size;
}

std::string inflate(const InputFile& compressed,
                    const std::function<void(std::span<const std::byte>)>& sink,
                    AccessPoints* passed) {
  InflateStream stream(compressed);
  // Not a vector, which would be cleared first.
  const auto data = std::make_unique_for_overwrite<std::byte[]>(kInflated);
  while (const size_t size = stream.read({data.get(), kInflated}, passed)) sink({data.get(), size});
  return stream.damage();
}

TemporaryFile::TemporaryFile() {
  const char* folder = std::getenv("TMPDIR");
  folder_ = folder == nullptr || *folder == '\0' ? "/tmp" : folder;
  std::string name = folder_ + "/mbconv-XXXXXX";
  file_ = FileDescriptor(mkostemp(name.data(), O_CLOEXEC));
  if (!file_.valid()) {
    throw Error("cannot create a temporary file in ", folder_,
                " to inflate into: ", system_reason(errno), " (TMPDIR names another folder)");
  }
  unlink(name.c_str());
}

void TemporaryFile::write(std::span<const std::byte> data) {
  const int error = write_all(file_, data);
  if (error != 0) {
    throw Error("cannot inflate into a temporary file in ", folder_, ": ", system_reason(error),
                " after ", size_, " bytes (TMPDIR names another folder)");
  }
  size_ += data.size();
}

}  // namespace mbconv::io
