#pragma once

#include <doctest/doctest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/error.h"

// What the tests of io share: scratch folders, whole files as bytes, limits of the system.
namespace mbconv::io_test {

// A folder of its own, removed at the end of the scope.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "mbconv-test-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }
  size_t files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::filesystem::path path_;
};

inline std::vector<std::byte> to_bytes(std::string_view text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

inline std::string to_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path);
  return to_bytes(std::string(std::istreambuf_iterator<char>(in), {}));
}

inline void write_file(const std::string& path, std::span<const std::byte> bytes) {
  // ext4 takes a file that is emptied and written again for one to be saved at once.
  std::filesystem::remove(path);
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  REQUIRE_MESSAGE(out.good(), path);
}

// Lowers a soft limit of the process (RLIMIT_FSIZE for a full disk, RLIMIT_NOFILE) for a scope.
class Limit {
 public:
  Limit(__rlimit_resource resource, rlim_t value) : resource_(resource) {
    handler_ = signal(SIGXFSZ, SIG_IGN);  // Then a write past the limit fails with EFBIG.
    REQUIRE(getrlimit(resource_, &old_) == 0);
    const rlimit lowered{value, old_.rlim_max};
    REQUIRE(setrlimit(resource_, &lowered) == 0);
  }
  ~Limit() {
    setrlimit(resource_, &old_);
    signal(SIGXFSZ, handler_);
  }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;

 private:
  __rlimit_resource resource_;
  rlimit old_{};
  sighandler_t handler_;
};

// The message of the Error that `call` throws; the test fails if it throws none.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  FAIL_CHECK("no Error was thrown");
  return {};
}

// Checks that `message` has each of `parts` in it.
template <class... Parts>
void check_names(const std::string& message, const Parts&... parts) {
  INFO("message: ", message);
  for (const std::string& part : {std::string(parts)...}) {
    INFO("looking for: ", part);
    CHECK(message.find(part) != std::string::npos);
  }
}

// Calls read(damaged, description) for `valid` cut at each length and with each byte changed in
// several ways. `read` may throw mbconv::Error and nothing else.
template <class Read>
void for_each_damage(const std::vector<std::byte>& valid, const Read& read) {
  for (size_t length = 0; length < valid.size(); ++length) {
    read(std::vector<std::byte>(valid.begin(), valid.begin() + static_cast<ptrdiff_t>(length)),
         "cut to " + std::to_string(length));
  }
  for (size_t i = 0; i < valid.size(); ++i) {
    for (const int mask : {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF}) {
      std::vector<std::byte> damaged = valid;
      damaged[i] ^= static_cast<std::byte>(mask);
      read(damaged, "byte " + std::to_string(i) + " xor " + std::to_string(mask));
    }
  }
}

}  // namespace mbconv::io_test
