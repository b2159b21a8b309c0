#pragma once

#include "lib/tensor.h"

namespace mbconv::ops {

// TensorFlow's SAME padding of one axis: outputs = ceil(size / stride), and of the padding in all,
// max((outputs - 1) stride + ksize - size, 0), the smaller half before.
struct SamePadding {
  int outputs, before;
};
MBCONV_INLINE constexpr SamePadding same_padding(int size, int ksize, int stride) {
  const int outputs = ceil_div(size, stride);
  const int total = (outputs - 1) * stride + ksize - size;
  return {outputs, total > 0 ? total / 2 : 0};
}

}  // namespace mbconv::ops
