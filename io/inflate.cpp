#include "io/inflate.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lib/error.h"

namespace mbconv::io {
namespace {

constexpr size_t kCompressed = size_t{64} << 10, kInflated = size_t{256} << 10;

}  // namespace

bool looks_compressed(std::span<const std::byte> head) {
  if (head.size() < 2) return false;
  const auto first = static_cast<unsigned>(head[0]), second = static_cast<unsigned>(head[1]);
  const bool gzip = first == 0x1f && second == 0x8b;
  // RFC 1950: method 8 (deflate), window of at most 2^15, and the check over both bytes.
  const bool zlib = (first & 0x0f) == 8 && first >> 4 <= 7 && (first * 256 + second) % 31 == 0;
  return gzip || zlib;
}

InflateStream::InflateStream() {
  // 32: gzip or zlib, as the header says.
  require(inflateInit2(&stream_, 15 + 32) == Z_OK, "out of memory for inflating");
}

InflateStream::InflateStream(const InflateStream& other)
    : next_(other.next_), ended_(other.ended_), damage_(other.damage_) {
  const int result = inflateCopy(&stream_, const_cast<z_stream*>(&other.stream_));
  require(result == Z_OK, "out of memory for inflating");
}

size_t InflateStream::read(const InputFile& compressed, std::span<std::byte> out) {
  std::vector<std::byte> in(std::min<uint64_t>(kCompressed, compressed.size() - next_));
  stream_.next_out = reinterpret_cast<Bytef*>(out.data());
  stream_.avail_out = static_cast<uInt>(out.size());
  while (stream_.avail_out > 0 && damage_.empty()) {
    if (stream_.avail_in == 0) {
      const auto chunk =
          std::span(in).first(std::min<uint64_t>(in.size(), compressed.size() - next_));
      compressed.read_at(next_, chunk);
      next_ += chunk.size();
      stream_.next_in = reinterpret_cast<Bytef*>(in.data());
      stream_.avail_in = static_cast<uInt>(chunk.size());
    }
    const bool at_end = stream_.avail_in == 0;
    if (ended_ && at_end) break;
    // Bytes after the end of a stream: the next member of a gzip file.
    if (ended_) inflateReset(&stream_);
    const int result = ::inflate(&stream_, Z_NO_FLUSH);
    ended_ = result == Z_STREAM_END;
    if (result == Z_BUF_ERROR && at_end) {
      damage_ = "truncated: the compressed data go on past the end of the file, byte " +
                std::to_string(compressed.size());
    } else if (result != Z_OK && !ended_ && result != Z_BUF_ERROR) {
      damage_ = "damaged compressed data at byte " + std::to_string(next_ - stream_.avail_in) +
                ": " + (stream_.msg != nullptr ? stream_.msg : "no reason given");
    }
  }
  next_ -= std::exchange(stream_.avail_in, 0);  // read again by the next call
  return out.size() - stream_.avail_out;
}

std::string inflate(const InputFile& compressed,
                    const std::function<void(std::span<const std::byte>)>& sink) {
  InflateStream stream;
  // Not a vector, which would be cleared first.
  const auto data = std::make_unique_for_overwrite<std::byte[]>(kInflated);
  while (const size_t size = stream.read(compressed, {data.get(), kInflated}))
    sink({data.get(), size});
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
