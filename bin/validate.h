#pragma once

#include <cstdint>
#include <functional>

#include "io/loader.h"
#include "net/efficientnet.h"

namespace mbconv::bin {

struct Validation {
  double top1 = 0, top5 = 0;  // fractions
  double loss = 0;            // cross-entropy, without label smoothing and decay
  int64_t images = 0;
  double seconds = 0;
  bool stopped = false;  // before all images were counted
};

// Runs all records once through the network in inference; every image is counted exactly once.
// `go_on` is called with the number of images done after each batch; false stops.
Validation validate(net::EfficientNet& network, const io::RecordSet& records, Workers& workers,
                    io::LoaderOptions options, const std::function<bool(int64_t)>& go_on);

}  // namespace mbconv::bin
