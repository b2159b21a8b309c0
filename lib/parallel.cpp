#include "lib/parallel.h"

#include <sched.h>
#include <xmmintrin.h>

#include <atomic>
#include <cmath>
#include <fstream>
#include <optional>
#include <string>

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/info.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>

#include "lib/error.h"

namespace mbconv {
namespace {

int affinity_cpus() {
  // The mask may be larger than cpu_set_t on machines with more than 1,024 CPUs.
  for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(cpus));
    const size_t bytes = CPU_ALLOC_SIZE(cpus);
    const bool read = set != nullptr && sched_getaffinity(0, bytes, set) == 0;
    const int count = read ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return 1;
}

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

// Flush-to-zero and denormals-are-zero while it lives.
class FlushDenormals {
 public:
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned saved_;
};

int worker_index() {
  return tbb::this_task_arena::current_thread_index();
}

}  // namespace

int available_threads() {
  const int cpus = affinity_cpus();
  const double quota = std::ceil(cgroup_cpus());
  return quota < cpus ? std::max(1, static_cast<int>(quota)) : cpus;
}

struct Workers::Impl {
  explicit Impl(int threads) : arena(threads) {
    // oneTBB makes no more threads than CPUs unless told so.
    if (threads > tbb::info::default_concurrency()) {
      limit.emplace(tbb::global_control::max_allowed_parallelism, static_cast<size_t>(threads));
    }
  }

  // Counters of a staged run: at least `groups`, kept from run to run.
  std::atomic<int>* counters(int groups) {
    if (groups > capacity) {
      left = std::make_unique<std::atomic<int>[]>(static_cast<size_t>(groups));
      capacity = groups;
    }
    return left.get();
  }

  std::optional<tbb::global_control> limit;
  tbb::task_arena arena;
  std::unique_ptr<std::atomic<int>[]> left;
  int capacity = 0;
};

Workers::Workers(int threads) : threads_(threads) {
  require(threads >= 1, "the number of threads must be at least 1, got ", threads);
  impl_ = std::make_unique<Impl>(threads);
}

Workers::~Workers() = default;

void Workers::run_items(int items, Call<int, int> body) {
  const auto some = [&](const tbb::blocked_range<int>& range) {
    const FlushDenormals flush;
    for (int i = range.begin(); i != range.end(); ++i) body(i, worker_index());
  };
  impl_->arena.execute([&] {
    tbb::parallel_for(tbb::blocked_range<int>(0, items, 1), some, tbb::simple_partitioner());
  });
}

void Workers::run_stages(int groups, int first_items, Call<int, int, int> first,
                         Call<int, int> join, int second_items, Call<int, int, int> second) {
  std::atomic<int>* left = impl_->counters(groups);
  for (int g = 0; g < groups; ++g) left[g].store(first_items, std::memory_order_relaxed);
  impl_->arena.execute([&] {
    tbb::task_group released;
    const auto release = [&](int group) {
      for (int item = 0; item < second_items; ++item) {
        released.run([&second, group, item] {
          const FlushDenormals flush;
          second(group, item, worker_index());
        });
      }
    };
    const auto some = [&](const tbb::blocked_range<int>& range) {
      const FlushDenormals flush;
      for (int i = range.begin(); i != range.end(); ++i) {
        const int group = i / first_items;
        first(group, i % first_items, worker_index());
        if (left[group].fetch_sub(1, std::memory_order_acq_rel) != 1) continue;
        join(group, worker_index());
        release(group);
      }
    };
    try {
      tbb::parallel_for(tbb::blocked_range<int>(0, groups * first_items, 1), some,
                        tbb::simple_partitioner());
    } catch (...) {
      released.cancel();
      released.wait();
      throw;
    }
    released.wait();
  });
}

void Workers::submit(std::function<void()> task) {
  impl_->arena.enqueue([task = std::move(task)] {
    const FlushDenormals flush;
    task();
  });
}

}  // namespace mbconv
