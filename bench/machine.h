#pragma once

#include <cstddef>
#include <string>

namespace mbconv::bench {

// The CPU's name, as the system gives it.
std::string cpu_name();

// Bytes of a core's second-level cache and of the last level.
struct Caches {
  size_t second, last;
};
Caches caches();

}  // namespace mbconv::bench
