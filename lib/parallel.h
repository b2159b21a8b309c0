#pragma once

#include <functional>
#include <memory>
#include <type_traits>

namespace mbconv {

// A fixed number of threads that run numbered work items. Items are cut by shape, never by thread,
// and results must go to places numbered by item: then they have equal bits for any number of
// threads. Denormals are flushed to zero inside items, and the caller's setting is restored after.
//
// Neighbouring items are, as a rule, run by the same thread one after the other, in this run and in
// the next one. Idle threads take items that are left and sleep soon, and the calling thread waits
// for no item that has not begun, so that a busy neighbour on one core costs little more than its
// share. With as many threads as CPUs, helpers move to CPUs of their own when they join a run.
// An exception thrown by an item ends the run early and is rethrown to the caller. One thread at a
// time calls run or run_staged, and items call neither.
class Workers {
 public:
  // `threads` >= 1, the calling thread included. Throws Error otherwise.
  explicit Workers(int threads);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int threads() const { return threads_; }

  // Calls body(item, worker) once for each item in [0, items); `worker` in [0, threads()) numbers
  // the thread and is for scratch memory only. Returns when all are done.
  template <class Body>
  void run(int items, const Body& body) {
    run_items(items, Call<int, int>(body));
  }

  // Three stages for each group in [0, groups), each group on its own, with no barrier between
  // groups: first(group, item, worker) for item in [0, first_items); when a group's last one is
  // done, join(group, worker); then second(group, item, worker) for item in [0, second_items), by
  // the thread that joined, but for those at the end that idle threads take.
  template <class First, class Join, class Second>
  void run_staged(int groups, int first_items, const First& first, const Join& join,
                  int second_items, const Second& second) {
    run_stages(groups, first_items, Call<int, int, int>(first), Call<int, int>(join), second_items,
               Call<int, int, int>(second));
  }

  // Queues `task` for a thread that has nothing else to do, between or beside the items of a run.
  // The caller's thread never waits for it, but the destructor does. It must not throw. Needs
  // threads() > 1.
  void submit(std::function<void()> task);

 private:
  // A callable by reference: no allocation, valid during the call it is passed to.
  template <class... Args>
  struct Call {
    template <class F>
    explicit Call(const F& f)
        : object(&f),
          function([](const void* o, Args... args) { (*static_cast<const F*>(o))(args...); }) {}
    void operator()(Args... args) const { function(object, args...); }
    const void* object;
    void (*function)(const void*, Args...);
  };

  void run_items(int items, Call<int, int> body);
  void run_stages(int groups, int first_items, Call<int, int, int> first, Call<int, int> join,
                  int second_items, Call<int, int, int> second);

  struct Impl;
  int threads_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mbconv
