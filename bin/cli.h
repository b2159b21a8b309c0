#pragma once

#include <charconv>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "lib/error.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace mbconv::bin {

// The command line. CLI11 is behind this; cli.cpp alone includes it, as its header takes longer to
// compile than most of what uses it.

// A mistake in the options that only shows once they are looked at together.
class UsageError : public Error {
 public:
  using Error::Error;
};

// Counts of steps and the like: up to 2^50.
inline constexpr double kMaxCount = 1125899906842624.0;

// The shortest text that reads back as the same number.
template <class T>
std::string exact_text(T value) {
  char buffer[64];
  return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr);
}

// What an option is, told in turns: options.add("--lr", lr, "Learning rate").between(0, 1).
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}

  // A number in [low, high]; not NaN.
  Option& between(double low, double high);
  // A whole number in [low, high] in plain digits.
  Option& whole(int64_t low, uint64_t high);
  Option& one_of(const std::vector<std::string>& values);
  // A number of bytes, with a unit (500M) or without.
  Option& byte_size();
  Option& required();
  Option& excludes(const Option& other);
  Option& group(const char* name);
  // --help shows the variable's value as the default, or `text`.
  Option& show_default();
  Option& show_default(const std::string& text);

 private:
  CLI::Option* option_;
};

// An option as it came out.
struct OptionValue {
  std::string name;   // without dashes
  std::string value;  // given or default
  std::string group;
  bool given, flag;
};

// The options of a program or of one of its commands. Each is declared once: that drives parsing,
// --help, the printed configuration and config.json.
class Options {
 public:
  Options(const char* description, const char* name);
  ~Options();

  // The options of a new command, of which one must be given; they live as long as these.
  Options& add_command(const char* name, const char* description);
  // An option whose text becomes `value`, which must live as long as the options. T is a string, a
  // number or an optional number.
  template <class T>
  Option add(const char* name, T& value, const std::string& help);
  Option add_flag(const char* name, bool& value, const std::string& help);
  // An option whose text, of the form `type`, goes to `take` where `wrong` says nothing ("") of it.
  Option add_text(const char* name, const char* type,
                  const std::function<void(const std::string&)>& take,
                  const std::function<std::string(const std::string&)>& wrong,
                  const std::string& help);

  // Takes a command line, without the program's name, for tests: run_program is stricter where an
  // option is given twice. Throws std::exception.
  void parse(std::vector<std::string> words);
  // Whether the command line has this command.
  bool command_given() const;
  bool given(const char* name) const;
  std::vector<OptionValue> values() const;
  // Gives an option (name without dashes) a value after parsing. Throws std::exception.
  void set(const std::string& name, const std::string& value);
  // Makes `text` the value of an option that was not given; its variable stays.
  void show(const char* name, const std::string& text);

 private:
  friend int run_program(Options& options, int argc, char** argv, const std::function<int()>& body);
  explicit Options(CLI::App* command);

  std::unique_ptr<CLI::App> program_;  // null: a command, which its program owns
  CLI::App* app_;
  std::vector<std::unique_ptr<Options>> commands_;
};

// Parses the command line and runs `body`; returns the exit status: body's own, 2 after a usage
// error and 1 after any other, each with one line on standard error, naming the nearest option
// where one is unknown.
int run_program(Options& options, int argc, char** argv, const std::function<int()>& body);

// Every option with the value it has, given or default, one a line.
void print_options(std::ostream& out, const Options& options);

}  // namespace mbconv::bin
