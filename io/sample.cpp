#include "io/sample.h"

#include "io/decode.h"
#include "lib/error.h"
#include "lib/rng.h"

namespace mbconv::io {

void check_sample_options(const SampleOptions& o) {
  require(o.size >= 1, "the picture size must be at least 1, got ", o.size);
  require(o.classes >= 1, "the number of classes must be at least 1, got ", o.classes);
  check_ranges(o.ranges);
  for (const float stddev : o.normalisation.stddev) {
    require(stddev > 0, "pictures are divided by a deviation that must be above 0, got ", stddev);
  }
}

int32_t prepare_sample(Bytes record, uint32_t epoch, uint64_t number, const SampleOptions& o,
                       float* out) {
  const LabelledImage example = parse_labelled_image(record, o.keys);
  require(0 <= example.label && example.label < o.classes, "the label ", example.label,
          " lies outside [0, ", o.classes, ")");
  // Kept for the next record of the thread, which saves page faults.
  thread_local Image picture;
  decode_image(example.encoded, o.max_side, picture);
  if (o.augment) {
    Rng rng(o.seed, epoch, number, Purpose::augment);
    const AugmentDraw draw = draw_augmentation(picture.width, picture.height, o.ranges, rng);
    augment(picture, draw, o.size, o.normalisation, out);
  } else {
    prepare_validation(picture, validation_resize(o.size), o.size, o.normalisation, out);
  }
  return static_cast<int32_t>(example.label);
}

}  // namespace mbconv::io
