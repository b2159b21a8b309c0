#include "bin/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iomanip>
#include <iostream>
#include <numeric>
#include <optional>
#include <sstream>
#include <utility>

namespace mbconv::bin {
namespace {

// Levenshtein distance.
size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j - 1] + 1, above + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

// The option nearest to `given`, "" if none is near.
std::string nearest_option(const CLI::App& app, const std::string& given) {
  std::string nearest;
  size_t best = std::max<size_t>(2, given.size() / 3) + 1;
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name();
    const size_t d = distance(name, given);
    if (d < best) {
      best = d;
      nearest = name;
    }
  }
  return nearest;
}

int usage_error(const CLI::App& app, const std::string& message) {
  std::cerr << app.get_name() << ": " << message << " (see " << app.get_name() << " --help)\n";
  return 2;
}

// "; expected one of verify, show" of a program that has commands, else "".
std::string expected_commands(const CLI::App& app) {
  std::string text;
  for (const CLI::App* command : app.get_subcommands({}))
    text += (text.empty() ? "; expected one of " : ", ") + command->get_name();
  return text;
}

int unknown_arguments(const CLI::App& app) {
  const CLI::App* where = app.get_subcommands().empty() ? &app : app.get_subcommands().front();
  const std::string given = app.remaining(true).empty() ? "" : app.remaining(true).front();
  const std::string name = given.substr(0, given.find('='));
  std::string message =
      (name.starts_with("--") ? "unknown option " : "unexpected argument ") + name;
  if (app.get_subcommands().empty() && !name.starts_with("--")) message += expected_commands(app);
  if (const std::string nearest = nearest_option(*where, name); !nearest.empty()) {
    message += "; did you mean " + nearest + "?";
  }
  return usage_error(app, message);
}

// `status`, or 1 if standard output did not take all that was printed.
int flushed(const CLI::App& app, int status) {
  std::cout.flush();
  if (std::cout.good() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  std::cerr << app.get_name() << ": error: standard output cannot be written: is the disk full?\n";
  return status == 0 ? 1 : status;
}

// Of an option given twice the last one counts; leftovers are kept, to name the nearest option.
void set_policies(CLI::App& app) {
  app.allow_extras();
  for (CLI::Option* option : app.get_options()) option->take_last();
  for (CLI::App* command : app.get_subcommands({})) set_policies(*command);
}

// A number in [low, high]; not NaN.
CLI::Validator number_between(double low, double high) {
  const auto text = [](double v) {
    std::ostringstream out;
    out << std::setprecision(16) << v;
    return out.str();
  };
  const std::string range = text(low) + " to " + text(high);
  return CLI::Validator(
      [=](std::string& input) {
        double value = 0;
        const bool number = CLI::detail::lexical_cast(input, value);
        if (number && value >= low && value <= high) return std::string();
        return input + (number ? " is not in the range " : " is not a number; expected ") + range;
      },
      high >= kMaxCount ? "at least " + text(low) : range);
}

// A whole number in [low, high] in plain digits.
CLI::Validator whole_number(int64_t low, uint64_t high) {
  const bool open = static_cast<double>(high) >= kMaxCount;
  const std::string range = open ? "at least " + std::to_string(low)
                                 : std::to_string(low) + " to " + std::to_string(high);
  return CLI::Validator(
      [=](std::string& input) {
        const char *begin = input.data(), *end = begin + input.size();
        int64_t negative = 0;
        uint64_t positive = 0;
        const bool minus = input.starts_with('-');
        const auto [rest, error] =
            minus ? std::from_chars(begin, end, negative) : std::from_chars(begin, end, positive);
        // Other readers take a leading zero for an octal number.
        const bool plain = error == std::errc() && rest == end &&
                           input == (minus ? exact_text(negative) : exact_text(positive));
        const bool inside = minus ? negative >= low : positive <= high;
        if (!plain) return input + " is not a whole number; expected " + range;
        const bool above = minus || low <= 0 || positive >= static_cast<uint64_t>(low);
        return inside && above ? std::string() : input + " is not in the range " + range;
      },
      range);
}

}  // namespace

Option& Option::between(double low, double high) {
  option_->check(number_between(low, high));
  return *this;
}
Option& Option::whole(int64_t low, uint64_t high) {
  option_->check(whole_number(low, high));
  return *this;
}
Option& Option::one_of(const std::vector<std::string>& values) {
  option_->check(CLI::IsMember(values));
  return *this;
}
Option& Option::byte_size() {
  option_->transform(CLI::AsSizeValue(false));
  return *this;
}
Option& Option::required() {
  option_->required();
  return *this;
}
Option& Option::excludes(const Option& other) {
  option_->excludes(other.option_);
  return *this;
}
Option& Option::group(const char* name) {
  option_->group(name);
  return *this;
}
Option& Option::show_default() {
  option_->capture_default_str();
  return *this;
}
Option& Option::show_default(const std::string& text) {
  option_->default_str(text);
  return *this;
}

Options::Options(const char* description, const char* name)
    : program_(std::make_unique<CLI::App>(description, name)), app_(program_.get()) {}
Options::Options(CLI::App* command) : app_(command) {}
Options::~Options() = default;

Options& Options::add_command(const char* name, const char* description) {
  app_->require_subcommand(1);
  CLI::App* command = app_->add_subcommand(name, description);
  return *commands_.emplace_back(new Options(command));
}

template <class T>
Option Options::add(const char* name, T& value, const std::string& help) {
  return Option(app_->add_option(name, value, help));
}
template Option Options::add(const char*, std::string&, const std::string&);
template Option Options::add(const char*, int&, const std::string&);
template Option Options::add(const char*, int64_t&, const std::string&);
template Option Options::add(const char*, uint64_t&, const std::string&);
template Option Options::add(const char*, float&, const std::string&);
template Option Options::add(const char*, double&, const std::string&);
template Option Options::add(const char*, std::optional<int>&, const std::string&);
template Option Options::add(const char*, std::optional<int64_t>&, const std::string&);
template Option Options::add(const char*, std::optional<double>&, const std::string&);

Option Options::add_flag(const char* name, bool& value, const std::string& help) {
  return Option(app_->add_flag(name, value, help));
}

Option Options::add_text(const char* name, const char* type,
                         const std::function<void(const std::string&)>& take,
                         const std::function<std::string(const std::string&)>& wrong,
                         const std::string& help) {
  CLI::Option* option = app_->add_option_function<std::string>(name, take, help);
  return Option(option->check(wrong)->type_name(type));
}

void Options::parse(std::vector<std::string> words) {
  std::reverse(words.begin(), words.end());  // as CLI11 takes them
  app_->parse(words);
}

bool Options::command_given() const {
  return app_->parsed();
}

bool Options::given(const char* name) const {
  return app_->count(name) > 0;
}

std::vector<OptionValue> Options::values() const {
  std::vector<OptionValue> values;
  for (const CLI::Option* option : std::as_const(*app_).get_options()) {
    if (option->get_name() == "--help") continue;
    const bool flag = option->get_items_expected_max() == 0, given = option->count() > 0;
    std::string value =
        given ? CLI::detail::join(option->reduced_results(), ",") : option->get_default_str();
    if (flag) value = given || value == "true" ? "true" : "false";
    values.push_back({option->get_name().substr(2), value, option->get_group(), given, flag});
  }
  return values;
}

void Options::set(const std::string& name, const std::string& value) {
  CLI::Option* option = app_->get_option("--" + name);
  option->add_result(value);
  option->run_callback();
}

void Options::show(const char* name, const std::string& text) {
  app_->get_option(name)->default_str(text);
}

int run_program(Options& options, int argc, char** argv, const std::function<int()>& body) {
  CLI::App& app = *options.app_;
  try {
    set_policies(app);
    app.parse(argc, argv);
    if (!app.remaining(true).empty()) return unknown_arguments(app);
    return flushed(app, body());
  } catch (const CLI::ParseError& e) {
    // --help and --version are not errors.
    if (e.get_exit_code() == 0) return flushed(app, app.exit(e));
    // What is required may be missing because its name is misspelt.
    if (app.remaining_size(true) > 0) return unknown_arguments(app);
    return usage_error(app, e.what());
  } catch (const UsageError& e) {
    return usage_error(app, e.what());
  } catch (const std::exception& e) {
    std::cerr << app.get_name() << ": error: " << e.what() << '\n';
    return 1;
  }
}

void print_options(std::ostream& out, const Options& options) {
  for (const auto& [name, value, group, given, flag] : options.values()) {
    out << "  " << std::left << std::setw(26) << name << (value.empty() ? "-" : value) << '\n';
  }
}

}  // namespace mbconv::bin
