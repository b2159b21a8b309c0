#include "bench/machine.h"

#include <algorithm>
#include <fstream>

namespace mbconv::bench {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

Caches caches() {
  Caches found{size_t{1} << 20, 0};
  for (int index = 0;; ++index) {
    const std::string folder =
        "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    std::ifstream level_file(folder + "level"), size_file(folder + "size");
    int level = 0;
    size_t kib = 0;
    if (!(level_file >> level) || !(size_file >> kib)) break;
    if (level == 2) found.second = kib << 10;
    found.last = std::max(found.last, kib << 10);
  }
  if (found.last == 0) found.last = size_t{32} << 20;  // the system does not say
  return found;
}

}  // namespace mbconv::bench
