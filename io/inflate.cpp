#include "io/inflate.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "lib/error.h"

namespace mbconv::io {
namespace {

using Sink = std::function<void(std::span<const std::byte>)>;

constexpr size_t kChunk = size_t{256} << 10;

// zlib's inflater, for gzip and zlib alike.
class Inflater {
 public:
  Inflater() { require(inflateInit2(&stream_, 15 + 32) == Z_OK, "out of memory for inflating"); }
  ~Inflater() { inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  // Inflates all of `in`, which begins at `offset` of the compressed file. Returns "" or what is
  // wrong with it.
  std::string feed(std::span<std::byte> in, uint64_t offset, const Sink& sink) {
    stream_.next_in = reinterpret_cast<Bytef*>(in.data());
    stream_.avail_in = static_cast<uInt>(in.size());
    do {
      // Bytes after the end of a stream: the next member of a gzip file.
      if (ended_) inflateReset(&stream_);
      stream_.next_out = reinterpret_cast<Bytef*>(chunk_.get());
      stream_.avail_out = static_cast<uInt>(kChunk);
      const int result = inflate(&stream_, Z_NO_FLUSH);
      ended_ = result == Z_STREAM_END;
      sink({chunk_.get(), kChunk - stream_.avail_out});
      // Z_BUF_ERROR: the input was used up exactly when the output was full.
      if (result != Z_OK && !ended_ && result != Z_BUF_ERROR) {
        return "damaged compressed data at byte " +
               std::to_string(offset + in.size() - stream_.avail_in) + ": " +
               (stream_.msg != nullptr ? stream_.msg : "no reason given");
      }
    } while (stream_.avail_in > 0 || (stream_.avail_out == 0 && !ended_));
    return {};
  }

  bool ended() const { return ended_; }

 private:
  z_stream stream_{};
  // Not a vector, which would be cleared first.
  const std::unique_ptr<std::byte[]> chunk_ = std::make_unique_for_overwrite<std::byte[]>(kChunk);
  bool ended_ = false;
};

}  // namespace

bool looks_compressed(std::span<const std::byte> head) {
  if (head.size() < 2) return false;
  const auto first = static_cast<unsigned>(head[0]), second = static_cast<unsigned>(head[1]);
  const bool gzip = first == 0x1f && second == 0x8b;
  // RFC 1950: method 8 (deflate), window of at most 2^15, and the check over both bytes.
  const bool zlib = (first & 0x0f) == 8 && first >> 4 <= 7 && (first * 256 + second) % 31 == 0;
  return gzip || zlib;
}

std::string inflate(const InputFile& compressed, const Sink& sink) {
  Inflater inflater;
  std::vector<std::byte> in(std::min<uint64_t>(kChunk, compressed.size()));
  for (uint64_t offset = 0; offset < compressed.size();) {
    const std::span<std::byte> chunk(in.data(),
                                     std::min<uint64_t>(kChunk, compressed.size() - offset));
    compressed.read_at(offset, chunk);
    const std::string damage = inflater.feed(chunk, offset, sink);
    if (!damage.empty()) return damage;
    offset += chunk.size();
  }
  if (inflater.ended()) return {};
  return "truncated: the compressed data go on past the end of the file, byte " +
         std::to_string(compressed.size());
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

InputFile inflate_to_temporary(const InputFile& compressed) {
  TemporaryFile out;
  const std::string damage = inflate(compressed, [&](auto data) { out.write(data); });
  require(damage.empty(), damage);
  return out.finish();
}

}  // namespace mbconv::io
