#include "lib/cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <new>
#include <string>

namespace mbconv {
namespace {

// CPUs on which a thread may run.
class CpuMask {
 public:
  // Of the calling thread; without any CPU where that cannot be found.
  CpuMask() {
    // There may be more CPUs than a cpu_set_t has, 1,024.
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
      resize(cpus);
      if (sched_getaffinity(0, bytes_, set_.get()) == 0) return;
    }
    CPU_ZERO_S(bytes_, set_.get());
  }
  // Of one CPU.
  explicit CpuMask(int cpu) {
    resize(cpu + 1);
    CPU_SET_S(static_cast<size_t>(cpu), bytes_, set_.get());
  }

  int count() const { return CPU_COUNT_S(bytes_, set_.get()); }
  bool has(int cpu) const { return CPU_ISSET_S(static_cast<size_t>(cpu), bytes_, set_.get()); }
  int end() const { return static_cast<int>(8 * bytes_); }
  // Makes it the mask of the calling thread.
  bool apply() const { return sched_setaffinity(0, bytes_, set_.get()) == 0; }

 private:
  struct Free {
    void operator()(cpu_set_t* set) const { CPU_FREE(set); }
  };
  void resize(int cpus) {
    set_.reset(CPU_ALLOC(static_cast<size_t>(cpus)));
    if (set_ == nullptr) throw std::bad_alloc();
    bytes_ = CPU_ALLOC_SIZE(cpus);
    CPU_ZERO_S(bytes_, set_.get());
  }

  std::unique_ptr<cpu_set_t, Free> set_;
  size_t bytes_ = 0;
};

// Quota of one cgroup folder in CPUs; infinity where there is none.
double quota_of(const std::string& folder) {
  std::string quota;
  double period = 0;
  if (std::ifstream v2(folder + "/cpu.max"); v2 >> quota >> period) {
    if (quota != "max" && period > 0) return std::stod(quota) / period;
  }
  double microseconds = 0;
  std::ifstream v1_quota(folder + "/cpu.cfs_quota_us");
  std::ifstream v1_period(folder + "/cpu.cfs_period_us");
  if (v1_quota >> microseconds && v1_period >> period && microseconds > 0 && period > 0) {
    return microseconds / period;
  }
  return INFINITY;
}

// The smallest quota of this process's cgroup and of the groups above it.
double cgroup_cpus() {
  double cpus = INFINITY;
  std::ifstream groups("/proc/self/cgroup");  // lines "id:controllers:path"
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      cpus = std::min(cpus, quota_of(root + path));
      if (path.find('/') == std::string::npos) break;
    }
  }
  return cpus;
}

}  // namespace

int available_threads() {
  const int cpus = std::max(1, CpuMask().count());
  const double quota = std::ceil(cgroup_cpus());
  return quota < cpus ? std::max(1, static_cast<int>(quota)) : cpus;
}

HelperPlaces::HelperPlaces(int threads) {
  const CpuMask mask;
  if (mask.count() != threads) return;
  for (int cpu = 0; cpu < mask.end(); ++cpu) {
    if (mask.has(cpu)) cpus_.push_back(cpu);
  }
}

// The place of thread 0 is free for the helper whose own one is taken.
void HelperPlaces::take(int number, int helped) const {
  if (cpus_.empty()) return;
  int cpu = cpus_[static_cast<size_t>(number)];
  if (cpu == helped) cpu = cpus_[0];
  if (current_cpu() == cpu) return;
  const CpuMask allowed;
  if (allowed.has(cpu) && CpuMask(cpu).apply()) allowed.apply();
}

int current_cpu() {
  return sched_getcpu();
}

}  // namespace mbconv
