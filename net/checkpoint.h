#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lib/named_tensor.h"
#include "lib/normalisation.h"
#include "net/efficientnet.h"

namespace mbconv::net {

// What the metadata of a checkpoint says of it.
struct CheckpointInfo {
  ModelConfig model;
  int64_t label_offset = 0;  // what was subtracted from stored labels
  int64_t step = 0;
  Normalisation normalisation;  // of the images it was trained on
  // The offset was given; otherwise it followed from the keys of the training records, and does so
  // from those of others.
  bool label_offset_given = false;
};

// The network's tensors as timm's tf_efficientnet_* state_dict has them, and in the metadata all
// that rebuilds the network: model, width, depth, resolution, dropout, classes, activation,
// topology, label_offset, label_offset_given, step, mean, stddev.
TensorFile make_checkpoint(const EfficientNet& network, const CheckpointInfo& info);

// Of a file written by make_checkpoint; none if it has no such metadata (a file of timm's). Throws
// Error if the metadata is damaged.
std::optional<CheckpointInfo> checkpoint_info(const TensorFile& file);

// Number of classes of the classifier in a file. Throws Error if it has none.
int checkpoint_classes(const TensorFile& file);

// Momentum buffers and step, to go on from.
TensorFile make_state(const EfficientNet& network, int64_t step);
// Takes both files of a run. Throws Error if their steps differ or a tensor does not fit.
void restore(EfficientNet& network, const TensorFile& weights, const TensorFile& state);

}  // namespace mbconv::net
