#pragma once

#include <vector>

namespace mbconv {

// CPUs this process may use: its affinity mask, further limited by the CPU quota of its cgroup
// (version 1 or 2, rounded up). At least 1.
int available_threads();

// Keeps threads that wait for each other on CPUs of their own. Where another process is busy on one
// CPU, Linux may leave two threads on one other for seconds, as no placement of three is even.
class ThreadPlaces {
 public:
  // For `threads` threads; of use only where there are as many CPUs for the calling thread.
  explicit ThreadPlaces(int threads);
  // Moves the calling thread to the CPU of thread `number` if it is on another one and may go
  // there. Its affinity mask stays as it is.
  void take(int number) const;

 private:
  std::vector<int> cpus_;  // of each thread; empty: anywhere
};

}  // namespace mbconv
