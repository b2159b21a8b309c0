#pragma once

#include <cstddef>
#include <vector>

#include "io/decode.h"

namespace mbconv::io {

// The picture at width x height pixels, with antialiasing: a triangle filter over the pixels that
// an output pixel covers, on the stored (not linear) values. For making data sets smaller; the
// network's own input is resized by io/augment.h. Throws Error if a size is below 1 or memory runs
// out.
Image resize_antialiased(const Image& image, int width, int height);

// The picture with its shorter side at most `shorter` pixels, the other side in proportion (rounded
// to the nearest, at least 1). One that is small enough stays as it is.
Image shrink_to(const Image& image, int shorter);

// Encodes as baseline JPEG. `quality` in [1, 100]; chroma is halved in both directions up to 90.
// Throws Error for a picture without pixels or with a side of more than 65535.
std::vector<std::byte> encode_jpeg(const Image& image, int quality);

}  // namespace mbconv::io
