#include "io/events.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <limits>

#include "io/tfrecord.h"
#include "test/io_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

using Event = std::vector<std::byte>;

std::vector<Event> events_of(const std::string& path) {
  const RecordFile file(path);
  std::vector<Event> events(file.size());
  for (size_t i = 0; i < file.size(); ++i) file.read(i, events[i]);
  return events;
}

// Takes wall_time off the front of an event, and gives the bytes behind it.
std::string without_time(const Event& event, double& time) {
  REQUIRE(event.size() > 9);
  CHECK(event[0] == std::byte{0x09});  // field 1, 8 bytes
  std::memcpy(&time, event.data() + 1, 8);
  return to_text(std::span(event).subspan(9));
}

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

TEST_CASE("events: version, start and scalars, byte for byte, with the time of writing") {
  const ScratchFolder folder;
  const double before = now();
  std::string path;
  {
    EventWriter writer(folder.path(), 300);
    path = writer.path();
    writer.scalar("loss/train", 301, 0.5);
    writer.scalar("accuracy", 128, -2.0);
  }
  const double after = now();
  const std::vector<Event> events = events_of(path);
  const std::string expected[] = {
      std::string("\x1a\x0d"
                  "brain.Event:2"),
      std::string("\x10\xac\x02"  // step 300
                  "\x3a\x02"      // session_log
                  "\x08\x01"),    // status START
      std::string("\x10\xad\x02"  // step 301
                  "\x2a\x13"      // summary
                  "\x0a\x11"      // value
                  "\x0a\x0a"
                  "loss/train"
                  "\x15\0\0\0\x3f",
                  3 + 2 + 2 + 2 + 10 + 5),
      std::string("\x10\x80\x01"  // step 128
                  "\x2a\x11"      // summary
                  "\x0a\x0f"      // value
                  "\x0a\x08"
                  "accuracy"
                  "\x15\0\0\0\xc0",
                  3 + 2 + 2 + 2 + 8 + 5),
  };
  REQUIRE(events.size() == std::size(expected));
  double last = before;
  for (size_t i = 0; i < events.size(); ++i) {
    double time = 0;
    CHECK(without_time(events[i], time) == expected[i]);
    CHECK(time >= last);
    CHECK(time <= after);
    last = time;
  }
}

TEST_CASE("events: the file name has tfevents, the second, the host and the process in it") {
  const ScratchFolder folder;
  const auto before = static_cast<int64_t>(now());
  const EventWriter writer(folder.path(), 0);
  std::string host(256, '\0');
  REQUIRE(gethostname(host.data(), host.size()) == 0);
  host.resize(std::strlen(host.c_str()));
  const std::string start = folder / "events.out.tfevents.";
  CHECK(writer.path().substr(0, start.size()) == start);
  const int64_t second = std::stoll(writer.path().substr(start.size()));
  CHECK(second >= before);
  CHECK(second <= static_cast<int64_t>(now()));
  CHECK(writer.path() ==
        start + std::to_string(second) + "." + host + "." + std::to_string(getpid()) + ".mbconv");
}

TEST_CASE("events: version and start are in the file at once, scalars after flush") {
  const ScratchFolder folder;
  EventWriter writer(folder.path(), 0);
  CHECK(events_of(writer.path()).size() == 2);
  writer.scalar("x", 1, 1);
  CHECK(events_of(writer.path()).size() == 2);
  writer.flush();
  CHECK(events_of(writer.path()).size() == 3);
}

TEST_CASE("events: many scalars reach the file without a flush, and all of them at the end") {
  const ScratchFolder folder;
  std::string path;
  {
    EventWriter writer(folder.path(), 0);
    path = writer.path();
    for (int i = 0; i < 5000; ++i) writer.scalar("x", i, i);
    CHECK(events_of(path).size() > 1000);
  }
  CHECK(events_of(path).size() == 5002);
}

TEST_CASE("events: writers of the same second have files of their own, in the order of names") {
  const ScratchFolder folder;
  std::string last;
  for (int i = 0; i < 5; ++i) {
    const EventWriter writer(folder.path(), i);
    CHECK(writer.path() > last);
    last = writer.path();
  }
  CHECK(folder.files() == 5);
}

TEST_CASE("events: values a float cannot hold are written as infinity or NaN") {
  const ScratchFolder folder;
  EventWriter writer(folder.path(), 0);
  writer.scalar("x", 1, 1e300);
  writer.scalar("x", 2, std::numeric_limits<double>::quiet_NaN());
  writer.flush();
  const std::vector<Event> events = events_of(writer.path());
  REQUIRE(events.size() == 4);
  float value = 0;
  std::memcpy(&value, events[2].data() + events[2].size() - 4, 4);
  CHECK(value == std::numeric_limits<float>::infinity());
  std::memcpy(&value, events[3].data() + events[3].size() - 4, 4);
  CHECK(value != value);
}

TEST_CASE("events: a missing folder is named") {
  const ScratchFolder folder;
  check_names(error_of([&] { EventWriter writer(folder / "none", 0); }), folder / "none",
              "No such file or directory");
}

TEST_CASE("events: after a full disk the file ends with a whole record, and nothing is lost") {
  const ScratchFolder folder;
  EventWriter writer(folder.path(), 0);
  const auto size = std::filesystem::file_size(writer.path());
  writer.scalar("x", 1, 1);
  {
    const Limit limit(RLIMIT_FSIZE, size + 10);
    check_names(error_of([&] { writer.flush(); }), writer.path(), "File too large");
    CHECK(events_of(writer.path()).size() == 2);
  }
  writer.scalar("x", 2, 2);
  writer.flush();
  CHECK(events_of(writer.path()).size() == 4);
}
