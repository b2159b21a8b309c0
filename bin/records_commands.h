#pragma once

#include <functional>

#include "bin/cli.h"

namespace mbconv::bin {

// A command of `records`: its options are declared in `app`; `run` returns the exit status.
struct Command {
  Options* app;
  std::function<int()> run;
};

// Each adds its subcommand to `records`.
Command add_from_idx(Options& records);
Command add_from_folder(Options& records);
Command add_inspect(Options& records);
Command add_verify(Options& records);
Command add_show(Options& records);

}  // namespace mbconv::bin
