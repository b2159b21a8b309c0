#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "io/augment.h"
#include "io/example.h"
#include "io/tfrecord.h"
#include "lib/parallel.h"

namespace mbconv::io {

struct LoaderOptions {
  int batch = 64;
  int size = 224;        // of the prepared pictures, pixels a side
  bool training = true;  // false: one pass in file order, the last batch may be short
  bool augment = true;   // false: training pictures are prepared as validation pictures
  bool shuffle = true;   // a global permutation for each epoch, a function of (seed, epoch)
  uint64_t seed = 0;
  int classes = 1000;        // a label outside [0, classes) is an error
  int64_t first_sample = 0;  // number of the first sample: where a resumed run goes on
  int prefetch = 3;          // batches prepared ahead
  int max_side = 10000;
  AugmentRanges ranges;
  Normalisation normalisation;
  ExampleKeys keys;
};

// One prepared batch. Valid until the next call of Loader::next.
struct Batch {
  std::span<const float> images;    // [count, size, size, 3], normalised
  std::span<const int32_t> labels;  // [count]
  int count = 0;
  int64_t first_sample = 0;  // samples are numbered through the epochs: epoch = sample / records
};

// Reads, decodes and prepares records ahead of the network, on the threads of `workers` that have
// nothing else to do; the thread that waits in next() helps. Sample s of a training run is record
// permutation(seed, s / records)[s % records] with the random numbers of (seed, epoch, record), so
// batches are the same for any number of threads, and run on across epochs.
//
// Errors in a record (read, parse, decode, label) are thrown by the next() whose batch holds it, as
// Error naming file, record and offset; of several, the first in the batch. The call after it goes
// on with the batch that follows.
class Loader {
 public:
  // `records` and `workers` must outlive the loader. Throws Error if there are no records or an
  // option makes no sense.
  Loader(const RecordSet& records, Workers& workers, const LoaderOptions& options);
  // Drops what is not begun and waits for the records that are being prepared.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next batch; in validation, count 0 after the last one. One thread calls at a time.
  Batch next();
  // Seconds that calls of next() did not find their batch ready (whether they slept or prepared
  // records themselves), since the last call of this function.
  double take_wait_seconds();

 private:
  struct State;

  std::shared_ptr<State> state_;
};

}  // namespace mbconv::io
