#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "io/augment.h"
#include "io/example.h"
#include "lib/normalisation.h"

namespace mbconv::io {

// How a record becomes a picture for the network.
struct SampleOptions {
  int size = 224;        // of the prepared pictures, pixels a side
  bool augment = true;   // false: as validation pictures are prepared
  uint64_t seed = 0;     // of the augmentation
  int classes = 1000;    // a label outside [0, classes) is an error
  int max_side = 10000;  // pixels a side, of the encoded picture
  AugmentRanges ranges;
  Normalisation normalisation;
  ExampleKeys keys;
};

// Throws Error naming the first option that makes no sense.
void check_sample_options(const SampleOptions& options);

// Parses, decodes and prepares a record: its picture to `out` [size, size, 3], normalised; returns
// its label. `number` is the record's place in the whole data set: its random numbers are a pure
// function of (seed, epoch, number). Throws Error without the record's place.
int32_t prepare_sample(Bytes record, uint32_t epoch, uint64_t number, const SampleOptions& options,
                       float* out);

}  // namespace mbconv::io
