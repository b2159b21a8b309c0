#include "io/events.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "io/file.h"
#include "io/tfrecord.h"
#include "io/wire.h"
#include "lib/error.h"

namespace mbconv::io {
namespace {

using wire::Type;

// Field numbers of tensorflow/core/util/event.proto and framework/summary.proto.
constexpr uint32_t kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;
constexpr uint32_t kSummaryValue = 1;
constexpr uint32_t kTag = 1, kSimpleValue = 2;
constexpr uint32_t kStatus = 1, kStart = 1;

constexpr size_t kBuffer = size_t{64} << 10;

double wall_time() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::vector<std::byte> start_event(int64_t step) {
  std::vector<std::byte> event;
  wire::put_tag(event, kWallTime, Type::fixed64);
  wire::put(event, wall_time());
  wire::put_tag(event, kStep, Type::varint);
  wire::put_varint(event, static_cast<uint64_t>(step));
  return event;
}

std::string file_name() {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host = {"unknown"};
  return "events.out.tfevents." + std::to_string(static_cast<int64_t>(wall_time())) + "." +
         host.data() + "." + std::to_string(getpid()) + ".mbconv";
}

}  // namespace

struct EventWriter::Impl {
  explicit Impl(const std::string& folder) {
    const std::string name = folder + "/" + file_name();
    path = name;
    // A later file has a later name: readers take files in the order of their names.
    for (int i = 1;; ++i) {
      file = FileDescriptor(
          open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666));
      if (file.valid()) return;
      if (errno != EEXIST) throw Error("cannot create ", path, ": ", system_reason(errno));
      path = name + "." + std::to_string(i);
    }
  }

  void add(const std::vector<std::byte>& event) {
    append_record(pending, event);
    if (pending.size() >= kBuffer) flush();
  }

  void flush() {
    const int error = write_all(file, pending);
    if (error != 0) {
      // Readers take the end of a cut record for one that is still being written, or for damage.
      if (ftruncate(file.get(), static_cast<off_t>(size)) != 0) pending.clear();
      throw Error("cannot write ", path, ": ", system_reason(error));
    }
    size += pending.size();
    pending.clear();
  }

  std::string path;
  FileDescriptor file;
  uint64_t size = 0;
  std::vector<std::byte> pending;
};

EventWriter::EventWriter(const std::string& folder, int64_t first_step)
    : impl_(std::make_unique<Impl>(folder)) {
  std::vector<std::byte> version;
  wire::put_tag(version, kWallTime, Type::fixed64);
  wire::put(version, wall_time());
  wire::put_bytes(version, kFileVersion, bytes("brain.Event:2"));
  impl_->add(version);

  std::vector<std::byte> log, event = start_event(first_step);
  wire::put_tag(log, kStatus, Type::varint);
  wire::put_varint(log, kStart);
  wire::put_bytes(event, kSessionLog, log);
  impl_->add(event);
  impl_->flush();
}

EventWriter::~EventWriter() {
  try {
    impl_->flush();
  } catch (const Error&) {
    // A destructor has no one to tell; who cares calls flush().
  }
}

const std::string& EventWriter::path() const {
  return impl_->path;
}

void EventWriter::scalar(const std::string& tag, int64_t step, double value) {
  std::vector<std::byte> one, summary, event = start_event(step);
  wire::put_bytes(one, kTag, bytes(tag));
  wire::put_tag(one, kSimpleValue, Type::fixed32);
  wire::put(one, static_cast<float>(value));
  wire::put_bytes(summary, kSummaryValue, one);
  wire::put_bytes(event, kSummary, summary);
  impl_->add(event);
}

void EventWriter::flush() {
  impl_->flush();
}

}  // namespace mbconv::io
