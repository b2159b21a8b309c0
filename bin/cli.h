#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

#include "lib/error.h"

namespace mbconv::bin {

// A mistake in the options that only shows once they are looked at together.
class UsageError : public Error {
 public:
  using Error::Error;
};

// Parses the command line and runs `body`; returns the exit status: body's own, 2 after a usage
// error and 1 after any other, each with one line on standard error, naming the nearest option
// where one is unknown.
int run_program(CLI::App& app, int argc, char** argv, const std::function<int()>& body);

// A number in [low, high]; not NaN.
CLI::Validator between(double low, double high);
// A whole number in [low, high] in plain digits.
CLI::Validator whole(int64_t low, uint64_t high);
// Counts of steps and the like: up to 2^50.
inline constexpr double kMaxCount = 1125899906842624.0;

// The shortest text that reads back as the same number.
template <class T>
std::string exact_text(T value) {
  char buffer[64];
  return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr);
}

// Every option with the value it has, given or default, one a line.
void print_options(std::ostream& out, const CLI::App& app);

// Name (without dashes) and value of every option.
std::vector<std::pair<std::string, std::string>> option_values(const CLI::App& app);

}  // namespace mbconv::bin
