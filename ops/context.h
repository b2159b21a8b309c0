#pragma once

#include <cstddef>

#include "lib/isa.h"
#include "lib/parallel.h"
#include "lib/profile.h"

namespace mbconv::ops {

// What a pass runs with: the level of its kernels, the threads, and for each thread
// `scratch_floats` floats of scratch memory, 64-byte aligned, that no pass keeps.
struct Context {
  Isa isa;
  Workers* workers;
  float* scratch;
  size_t scratch_floats;       // a multiple of 16
  Profile* profile = nullptr;  // where passes put their times, if anywhere

  float* worker_scratch(int worker) const {
    return scratch + static_cast<size_t>(worker) * scratch_floats;
  }
};

}  // namespace mbconv::ops
