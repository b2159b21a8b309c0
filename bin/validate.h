#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "io/loader.h"
#include "net/efficientnet.h"

namespace mbconv::bin {

struct Validation {
  double top1 = 0, top5 = 0;  // fractions
  double loss = 0;            // cross-entropy, without label smoothing and decay
  int64_t images = 0;
  double seconds = 0, input_wait = 0;  // the latter in them
  std::vector<io::BadRecord> bad;      // left out
  bool stopped = false;                // before all images were counted
  struct Class {
    int64_t images = 0, top1 = 0;
  };
  std::vector<Class> classes;  // of each label
};

// Runs all records of the options' shard once through the network in inference; every image is
// counted exactly once, also if several processes share the records. `go_on` is called with the
// number of images done after each batch; false stops.
Validation validate(net::EfficientNet& network, const io::RecordSet& records, Workers& workers,
                    io::LoaderOptions options, const std::function<bool(int64_t)>& go_on);

}  // namespace mbconv::bin
