#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace mbconv::bin {

// Progress on standard error: a live bar on a terminal, plain lines in a file or pipe.
class Progress {
 public:
  Progress();
  ~Progress();

  // Work `done` of `total`, described by `text`. On a terminal this redraws the bar, a few times a
  // second at most; elsewhere it prints a line if `line` is set.
  void update(int64_t done, int64_t total, const std::string& text, bool line);
  // Takes the bar away, so that other output can follow.
  void clear();

 private:
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_{};
};

// The progress of a loop over `total` things, named by `what`; a line every tenth outside of
// terminals.
class Counter {
 public:
  Counter(std::string what, size_t total)
      : what_(std::move(what)), total_(static_cast<int64_t>(total)) {}
  void done();

 private:
  std::string what_;
  int64_t total_, done_ = 0;
  Progress progress_;
};

// "1:02:03" or "2:03".
std::string duration(double seconds);

}  // namespace mbconv::bin
