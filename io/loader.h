#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/bad_record.h"
#include "io/order.h"
#include "io/record_set.h"
#include "io/sample.h"
#include "lib/parallel.h"

namespace mbconv::io {

struct LoaderOptions : SampleOptions {
  int batch = 64;
  bool training = true;  // false: one pass in file order, the last batch may be short, no augment
  Shuffle shuffle = Shuffle::on;                      // in training
  size_t shuffle_block = 256, shuffle_window = 8192;  // of Shuffle::block, records
  int64_t first_sample = 0;  // number of the first sample: where a resumed run goes on
  // Of `shards` processes this one takes the samples shard, shard + shards, ... of the common
  // order.
  int shard = 0, shards = 1;
  int prefetch = 3;  // batches prepared ahead
  // Bound of the pictures prepared ahead, in bytes; 0: none. Lowers `prefetch`, to 0 if need be.
  uint64_t prefetch_bytes = 0;
  FaultPolicy on_bad_record = FaultPolicy::strict;
  BadLimit max_bad;
  std::vector<uint32_t> known_bad;  // that an interrupted run has counted, ascending
};

// How many of `records` this process takes in an epoch or a validation pass.
int64_t samples_of_shard(size_t records, const LoaderOptions& options);

// One prepared batch. Valid until the next call of Loader::next.
struct Batch {
  std::span<const float> images;    // [count, size, size, 3], normalised
  std::span<const int32_t> labels;  // [count]
  int count = 0;
  // Samples are numbered through the epochs, bad ones included. The batch holds the good ones of
  // [first_sample, next_sample).
  int64_t first_sample = 0, next_sample = 0;
};

// Reads, decodes and prepares records ahead of the network, on the threads of `workers` that have
// nothing else to do; the thread that waits in next() helps. With Shuffle::block, the blocks of the
// next window are fetched from the disk or inflated (RecordFile::inflates) as those of this one are
// used up. Sample s of a training run is number
// g = s * shards + shard of the order common to all processes: the record at place g % records of
// epoch g / records (EpochOrder), with the random numbers of (seed, epoch, record). So batches are
// the same for any number of threads and run on across epochs, and every record is in one process's
// part of each epoch.
//
// A bad record (damaged, unreadable, no picture, a label out of range) is with FaultPolicy::strict
// an Error thrown by the next() whose batch holds it, naming file, record and offset; of several,
// the first in the batch; the call after it goes on with the batch that follows. Else it is left
// out, and the batch takes the sample after its last one: batches are the good samples of the order
// in order, so they depend on the data alone.
class Loader {
 public:
  // `records` and `workers` must outlive the loader. Throws Error if there are no records or an
  // option makes no sense.
  Loader(const RecordSet& records, Workers& workers, const LoaderOptions& options);
  // Drops what is not begun and waits for the records that are being prepared.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next batch; in validation, count 0 after the last one. One thread calls at a time. Throws
  // Error for more bad records than max_bad, or if a whole epoch holds no good one.
  Batch next();
  // Seconds that calls of next() did not find their batch ready (whether they slept or prepared
  // records themselves), since the last call of this function.
  double take_wait_seconds();
  // The bad records that batches were found to hold since the last call of this function, in order;
  // each is told once in the loader's life.
  std::vector<BadRecord> take_bad_records();
  // Numbers of all bad records so far, known_bad included, ascending.
  std::vector<uint32_t> bad_records() const;
  // Batches prepared ahead, as the bound in bytes allows.
  int prefetch() const;

 private:
  struct State;

  std::shared_ptr<State> state_;
};

}  // namespace mbconv::io
