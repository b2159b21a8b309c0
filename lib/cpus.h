#pragma once

#include <vector>

namespace mbconv {

// CPUs this process may use: its affinity mask, further limited by the CPU quota of its cgroup
// (version 1 or 2, rounded up). At least 1.
int available_threads();

// Keeps the helpers of a thread off its CPU and off each other's. Where another process is busy on
// one of two CPUs, Linux may leave two threads on the other for seconds, as no placement of three
// is even.
class HelperPlaces {
 public:
  // For `threads` threads, the one that is helped included. Without effect unless the calling
  // thread may use exactly that many CPUs.
  explicit HelperPlaces(int threads);
  // Moves the calling thread, helper `number` in [1, threads) of a thread on CPU `helped`, to a CPU
  // of its own, if it is on another one and may go there. Its affinity mask stays as it is, but a
  // mask that another thread gives it at that very moment is lost.
  void take(int number, int helped) const;

 private:
  std::vector<int> cpus_;  // empty: anywhere
};

// Where the calling thread is.
int current_cpu();

}  // namespace mbconv
