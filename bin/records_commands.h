#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace mbconv::bin {

// A command of `records`: its options are declared in `app`; `run` returns the exit status.
struct Command {
  CLI::App* app;
  std::function<int()> run;
};

// Each adds its subcommand to `records`.
Command add_from_idx(CLI::App& records);
Command add_from_folder(CLI::App& records);
Command add_inspect(CLI::App& records);
Command add_verify(CLI::App& records);
Command add_show(CLI::App& records);

}  // namespace mbconv::bin
