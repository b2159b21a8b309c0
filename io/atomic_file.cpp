#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "lib/error.h"

namespace mbconv::io {
namespace {

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

bool is_open_at(const FileDescriptor& file, const std::string& name) {
  struct stat opened {
  }, named{};
  return fstat(file.get(), &opened) == 0 && stat(name.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

// Opens `name` for writing from its start, created if need be, for this AtomicFile alone.
FileDescriptor open_alone(const std::string& name, const std::string& path) {
  for (;;) {
    FileDescriptor file(::open(name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
    if (!file.valid()) {
      throw Error("cannot write ", path, ": cannot create ", name, ": ", system_reason(errno));
    }
    // Other failures: the file system has no locks, and we do without.
    require(flock(file.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK, "cannot write ",
            path, ": another writer holds ", name);
    // Between opening and locking, another writer may have finished and renamed the file.
    if (!is_open_at(file, name)) continue;
    if (ftruncate(file.get(), 0) != 0) {
      throw Error("cannot write ", path, ": cannot empty ", name, ": ", system_reason(errno));
    }
    return file;
  }
}

void sync_folder(const std::string& folder) {
  const FileDescriptor file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!file.valid()) throw Error("cannot open folder ", folder, ": ", system_reason(errno));
  // EINVAL: the file system does not sync folders.
  if (fsync(file.get()) != 0 && errno != EINVAL) {
    throw Error("cannot sync folder ", folder, ": ", system_reason(errno));
  }
}

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".tmp") {
  struct stat info {};
  // Found now, not after gigabytes are written; and /dev/null is not to be replaced by a file.
  require(stat(path_.c_str(), &info) != 0 || S_ISREG(info.st_mode), "cannot write ", path_,
          ": it exists and is not a regular file");
  file_ = open_alone(temporary_, path_);
}

AtomicFile::~AtomicFile() {
  if (file_.valid()) unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> data) {
  require(file_.valid(), "cannot write ", path_, ": it is complete already");
  const int error = write_all(file_, data);
  if (error != 0) throw Error("cannot write ", path_, ": ", system_reason(error));
}

void AtomicFile::commit() {
  require(file_.valid(), "cannot write ", path_, ": it is complete already");
  if (fsync(file_.get()) != 0) throw Error("cannot write ", path_, ": ", system_reason(errno));
  // Renamed while open: the lock must last until the name is free for the next writer.
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    throw Error("cannot write ", path_, ": cannot rename ", temporary_, ": ", system_reason(errno));
  }
  file_ = FileDescriptor();
  sync_folder(folder_of(path_));
}

void write_atomically(const std::string& path, std::span<const std::span<const std::byte>> parts) {
  AtomicFile file(path);
  for (const auto part : parts) file.write(part);
  file.commit();
}

}  // namespace mbconv::io
