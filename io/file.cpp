#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "lib/error.h"

namespace mbconv::io {

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

std::string system_reason(int error) {
  const std::string reason = std::generic_category().message(error);
  return error == EMFILE ? reason + " (the limit is raised with 'ulimit -n')" : reason;
}

int write_all(const FileDescriptor& file, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t written = ::write(file.get(), data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    data = data.subspan(static_cast<size_t>(written));
  }
  return 0;
}

InputFile::InputFile(const std::string& path)
    // Non-blocking, so that opening a pipe nobody writes to does not wait.
    : file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (!file_.valid()) throw Error(path, ": cannot open: ", system_reason(errno));
  struct stat info {};
  if (fstat(file_.get(), &info) != 0) throw Error(path, ": cannot stat: ", system_reason(errno));
  require(!S_ISDIR(info.st_mode), path, ": is a folder, expected a file");
  require(S_ISREG(info.st_mode), path, ": is not a regular file");
  size_ = static_cast<uint64_t>(info.st_size);
}

void InputFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = pread(file_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error("cannot read at offset ", offset, ": ", system_reason(errno));
    require(got > 0, "the file ends at offset ", offset, ", ", out.size(),
            " bytes before the end of what is read: it has shrunk since it was opened");
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
}

}  // namespace mbconv::io
