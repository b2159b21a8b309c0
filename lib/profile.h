#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

namespace mbconv {

// What a pass over memory is expected to cost, and how it is cut into work items.
struct PassCost {
  std::string name;  // "blocks.1.0.expand", for example
  std::string kind;  // "expand", "depthwise backward", ...
  double macs = 0;   // multiply-adds
  double bytes = 0;  // read and written, if each tensor crosses memory once
  int items = 1;
  double largest_share = 1;  // of the pass, in one item
};

// Times of passes, accumulated while enabled.
class Profile {
 public:
  using Id = size_t;
  struct Record {
    PassCost cost;
    double seconds = 0;
  };

  Id add(PassCost cost) {
    records_.push_back({std::move(cost)});
    return records_.size() - 1;
  }
  const std::vector<Record>& records() const { return records_; }
  // Sets all times to zero and begins, or stops, taking them.
  void enable(bool enabled) {
    enabled_ = enabled;
    for (Record& record : records_) record.seconds = 0;
  }

  // Adds its lifetime to a pass.
  class Scope {
   public:
    Scope(Profile* profile, Id id)
        : profile_(profile != nullptr && profile->enabled_ ? profile : nullptr), id_(id) {
      if (profile_ != nullptr) begin_ = Clock::now();
    }
    ~Scope() {
      if (profile_ == nullptr) return;
      profile_->records_[id_].seconds +=
          std::chrono::duration<double>(Clock::now() - begin_).count();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    using Clock = std::chrono::steady_clock;
    Profile* profile_;
    Id id_;
    Clock::time_point begin_{};
  };

 private:
  std::vector<Record> records_;
  bool enabled_ = false;
};

}  // namespace mbconv
