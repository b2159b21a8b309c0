#include "io/idx.h"

#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "lib/error.h"

namespace mbconv::io {
namespace {

// An IDX file: big-endian magic {0, 0, type 8 = unsigned byte, number of dimensions}, the
// dimensions as 32-bit numbers, the bytes. zlib reads plain files as they are.
class IdxFile {
 public:
  IdxFile(const std::string& path, int dimensions)
      : path_(path), file_(gzopen(path.c_str(), "rb"), &gzclose) {
    require(file_ != nullptr, path, ": cannot open: ", std::strerror(errno));
    const uint32_t magic = number();
    require(magic == 0x800u + static_cast<uint32_t>(dimensions), path,
            ": not an IDX file of bytes with ", dimensions, " dimensions");
  }

  uint32_t number() {
    uint8_t b[4];
    read(b, 4);
    return uint32_t{b[0]} << 24 | uint32_t{b[1]} << 16 | uint32_t{b[2]} << 8 | b[3];
  }
  int dimension() {
    const uint32_t d = number();
    require(d <= 1u << 28, path_, ": dimension ", d, " is too large");
    return static_cast<int>(d);
  }
  // All that is left, which must be `count` bytes.
  std::vector<uint8_t> bytes(uint64_t count) {
    require(count <= uint64_t{1} << 34, path_, ": ", count, " bytes are too many");
    std::vector<uint8_t> data(count);
    read(data.data(), count);
    uint8_t extra;
    require(gzread(file_.get(), &extra, 1) == 0, path_, ": bytes after the end of the data");
    return data;
  }

 private:
  void read(uint8_t* to, uint64_t count) {
    while (count > 0) {
      const auto piece = static_cast<unsigned>(std::min<uint64_t>(count, 1u << 30));
      const int got = gzread(file_.get(), to, piece);
      require(got > 0, path_, ": truncated or damaged");
      to += got;
      count -= static_cast<uint64_t>(got);
    }
  }

  std::string path_;
  std::unique_ptr<gzFile_s, int (*)(gzFile)> file_;
};

}  // namespace

IdxImages read_idx_images(const std::string& path) {
  IdxFile file(path, 3);
  IdxImages images;
  images.count = file.dimension();
  images.height = file.dimension();
  images.width = file.dimension();
  images.pixels =
      file.bytes(static_cast<uint64_t>(images.count) * static_cast<uint64_t>(images.height) *
                 static_cast<uint64_t>(images.width));
  return images;
}

std::vector<uint8_t> read_idx_labels(const std::string& path) {
  IdxFile file(path, 1);
  const int count = file.dimension();
  return file.bytes(static_cast<uint64_t>(count));
}

}  // namespace mbconv::io
