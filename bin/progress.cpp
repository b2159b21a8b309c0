#include "bin/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>

namespace mbconv::bin {
namespace {

constexpr int kBarWidth = 24;

int terminal_columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

Progress::Progress() : terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  clear();
}

void Progress::update(int64_t done, int64_t total, const std::string& text, bool line) {
  if (!terminal_) {
    if (line) std::cerr << text << std::endl;
    return;
  }
  using namespace std::chrono_literals;
  const auto now = std::chrono::steady_clock::now();
  if (drawn_ && done < total && now - last_ < 200ms) return;
  last_ = now;
  const int filled = total > 0 ? static_cast<int>(done * kBarWidth / total) : 0;
  std::string bar = "[" + std::string(static_cast<size_t>(filled), '=') +
                    std::string(static_cast<size_t>(kBarWidth - filled), ' ') + "] " + text;
  bar.resize(std::min(bar.size(), static_cast<size_t>(terminal_columns() - 1)));
  std::cerr << '\r' << bar << "\x1b[K" << std::flush;
  drawn_ = true;
}

void Progress::clear() {
  if (drawn_) std::cerr << "\r\x1b[K" << std::flush;
  drawn_ = false;
}

void Counter::done() {
  ++done_;
  const bool line = done_ * 10 / total_ != (done_ - 1) * 10 / total_;
  progress_.update(done_, total_,
                   what_ + " " + std::to_string(done_) + "/" + std::to_string(total_), line);
}

std::string duration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(seconds));
  char text[64];
  const int64_t hours = total / 3600, minutes = total / 60 % 60;
  if (hours > 0) {
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", hours, minutes, total % 60);
  } else {
    std::snprintf(text, sizeof text, "%ld:%02ld", minutes, total % 60);
  }
  return text;
}

}  // namespace mbconv::bin
