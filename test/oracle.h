#pragma once

#include <vector>

#include "ops/batch_norm.h"
#include "ops/conv1x1_ref.h"
#include "ops/deferred.h"
#include "ops/packed.h"
#include "test/compare.h"

namespace mbconv::test {

// The oracle of a fused pass: what is pending on its inputs, done to whole dense tensors in double
// (Tracked) as ops/deferred.h states it. Between these and the references of the unfused ops lies
// the specification of every pass.

// Calls body(view element, index in a dense [N,P,C], n, c) for each element that is no padding.
template <class T, class Body>
void for_each_element(View<T> view, const Body& body) {
  const Shape& s = view.shape;
  size_t i = 0;
  for (int n = 0; n < s.n; ++n) {
    for (int p = 0; p < s.pixels(); ++p) {
      for (int c = 0; c < s.c; ++c) body(view.pixel(n, c / s.block, p)[c % s.block], i++, n, c);
    }
  }
}

template <class Out = float, class T>
Dense<Out> unpack(View<T> view) {
  Dense<Out> out({view.shape.n, view.shape.pixels(), view.shape.c});
  for_each_element(view, [&](T& v, size_t i, int, int) { out[i] = Out(v); });
  return out;
}

template <class Out = float, class T>
Dense<Out> unpack(ops::Packed<T> w) {
  Dense<Out> out({w.k, w.n});
  for (int r = 0; r < w.k; ++r) {
    for (int c = 0; c < w.n; ++c) out[static_cast<size_t>(r * w.n + c)] = Out(w.at(r, c));
  }
  return out;
}

// [rows, columns] of a matrix whose rows lie `pitch` apart.
template <class Out = float, class T>
Dense<Out> unpack(const T* data, int rows, int columns, ptrdiff_t pitch) {
  Dense<Out> out({rows, columns});
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c)
      out[static_cast<size_t>(r * columns + c)] = Out(data[r * pitch + c]);
  }
  return out;
}

// Lanes past the channels must be zero (not NaN, not minus infinity; minus zero is zero).
template <class T>
bool padding_is_zero(View<T> view) {
  const Shape& s = view.shape;
  bool ok = true;
  for (int n = 0; n < s.n; ++n) {
    for (int p = 0; p < s.pixels(); ++p) {
      for (int c = s.c; c < s.padded_c(); ++c)
        ok = ok && view.pixel(n, c / s.block, p)[c % s.block] == 0;
    }
  }
  return ok;
}
template <class T>
bool padding_is_zero(ops::Packed<T> w) {
  bool ok = true;
  for (int r = 0; r < w.k; ++r) {
    for (int c = w.n; c < w.padded_n(); ++c) ok = ok && w.at(r, c) == 0;
  }
  return ok;
}
template <class T>
bool padding_is_zero(const T* data, int rows, int columns, int pitch) {
  bool ok = true;
  for (int r = 0; r < rows; ++r) {
    for (int c = columns; c < pitch; ++c) ok = ok && data[ptrdiff_t{r} * pitch + c] == 0;
  }
  return ok;
}

// x of a Deferred. Without a batch norm it is finished already: no activation is pending.
inline Dense<Tracked> finished(const ops::Deferred& x) {
  Dense<Tracked> out = unpack<Tracked>(x.y);
  for_each_element(x.y, [&](float, size_t i, int n, int c) {
    if (x.scale != nullptr) {
      out[i] = activate(x.activation, Tracked(x.scale[c]) * out[i] + Tracked(x.shift[c]));
    }
    if (x.gate != nullptr) out[i] = out[i] * x.gate[n * x.y.shape.padded_c() + c];
  });
  if (!x.skip) return out;
  for_each_element(x.skip, [&](float v, size_t i, int, int) { out[i] += v; });
  return out;
}

// y of a Finish from the products of a convolution; without one, these.
inline Dense<Tracked> finished(const ops::Finish& finish, Dense<Tracked> product) {
  if (!finish) return product;
  const auto channels = static_cast<size_t>(product.shape.back());
  for (size_t i = 0; i < product.size(); ++i) {
    product[i] = activate(finish.activation, product[i] + Tracked(finish.bias[i % channels]));
  }
  if (!finish.skip) return product;
  for_each_element(finish.skip, [&](float v, size_t i, int, int) { product[i] += v; });
  return product;
}

// Global average of a dense tensor [N,P,C], [N,C].
inline Dense<Tracked> pooled(const Dense<Tracked>& y) {
  const size_t channels = static_cast<size_t>(y.shape[2]);
  const size_t image = static_cast<size_t>(y.shape[1]) * channels;
  Dense<Tracked> mean({y.shape[0], y.shape[2]});
  for (size_t i = 0; i < y.size(); ++i)
    mean[i / image * channels + i % channels] += y[i] * Tracked(1.0 / y.shape[1]);
  return mean;
}

// f'(scale y + shift) of a tensor.
inline Dense<Tracked> slopes(View<const float> y, const float* scale, const float* shift,
                             ops::Activation f) {
  Dense<Tracked> out = unpack<Tracked>(y);
  for_each_element(y, [&](float, size_t i, int, int c) {
    out[i] = activate_derivative(f, Tracked(scale[c]) * out[i] + Tracked(shift[c]));
  });
  return out;
}

// dy of a DeferredGrad.
inline Dense<Tracked> finished(const ops::DeferredGrad& grad) {
  const Shape& s = grad.shape();
  Dense<Tracked> out({s.n, s.pixels(), s.c});
  if (grad.g) out = unpack<Tracked>(grad.g);
  const Dense<Tracked> slope =
      grad.y ? slopes(grad.y, grad.scale, grad.shift, grad.activation) : Dense<Tracked>();
  // Any view of this shape will do for the walk.
  for_each_element(grad.g ? grad.g : grad.y, [&](float, size_t i, int n, int c) {
    const ptrdiff_t at = ptrdiff_t{n} * s.padded_c() + c;
    if (grad.gate != nullptr) out[i] = out[i] * grad.gate[at];
    if (grad.offset != nullptr) out[i] += grad.offset[at];
    if (grad.y) out[i] = out[i] * slope[i];
  });
  if (!grad.y) return out;
  for_each_element(grad.y, [&](float y, size_t i, int, int c) {
    const Tracked centred = Tracked(y) - Tracked(grad.mean[c]);
    out[i] = Tracked(grad.a[c]) * out[i] - Tracked(grad.b[c]) - Tracked(grad.d[c]) * centred;
  });
  return out;
}

// The slot of partial sums that each row of a dense tensor [N,P,C] belongs to, where a pass is cut
// into ranges of `units` an image (its pixels, or its lines) and each slot holds the sums of its
// own range.
inline std::vector<size_t> slots_of_rows(const ops::RowCut& cut, const Shape& s, int units) {
  std::vector<size_t> slots(static_cast<size_t>(s.rows()));
  for (int i = 0; i < cut.items(); ++i) {
    const ops::RowCut::Range range = cut.item(i, s.n, units);
    const int64_t rows_a_unit = s.pixels() / units;
    for (int64_t r = range.begin * rows_a_unit; r < range.end * rows_a_unit; ++r) {
      slots[static_cast<size_t>(r)] = static_cast<size_t>(i);
    }
  }
  return slots;
}

// Adds `first` and `second` of element i of a tensor [N,P,C] to its slot of sums, [slots,2,C].
inline void add_sums(Dense<Tracked>& sums, const std::vector<size_t>& slots, size_t i,
                     Tracked first, Tracked second) {
  const size_t channels = static_cast<size_t>(sums.shape.back());
  const size_t at = slots[i / channels] * 2 * channels + i % channels;
  sums[at] += first;
  sums[at + channels] += second;
}

// Sums of y - pivot and of its square: [slots,2,C].
inline Dense<Tracked> batch_sums(const Dense<Tracked>& y, const float* pivot, int count,
                                 const std::vector<size_t>& slots) {
  Dense<Tracked> out({count, 2, y.shape.back()});
  for (size_t i = 0; i < y.size(); ++i) {
    const Tracked v = y[i] - Tracked(pivot[i % static_cast<size_t>(y.shape.back())]);
    add_sums(out, slots, i, v, v * v);
  }
  return out;
}

struct InputGradValues {
  Dense<Tracked> dz, sums;  // sums of dz and dz * xhat, [slots,2,C]
};

// What becomes of dx in an InputGrad.
inline InputGradValues input_grad(const Dense<Tracked>& dx, const ops::InputGrad& to,
                                  const std::vector<size_t>& slots) {
  InputGradValues out{dx, Dense<Tracked>({to.sums.slots, 2, dx.shape.back()})};
  if (!to.y) return out;
  if (to.skip) {
    for_each_element(to.skip, [&](float v, size_t i, int, int) { out.dz[i] += v; });
  }
  const Dense<Tracked> slope = slopes(to.y, to.scale, to.shift, to.activation);
  for_each_element(to.y, [&](float y, size_t i, int, int c) {
    out.dz[i] = out.dz[i] * slope[i];
    const Tracked xhat = (Tracked(y) - Tracked(to.mean[c])) * Tracked(to.invstd[c]);
    add_sums(out.sums, slots, i, out.dz[i], out.dz[i] * xhat);
  });
  return out;
}

// [slots,2,C] without padding.
inline Dense<double> unpack(const ops::ChannelSums& sums, int channels) {
  Dense<double> out = unpack<double>(sums.data, 2 * sums.slots, channels, sums.channels);
  out.shape = {sums.slots, 2, channels};
  return out;
}

// Padding lanes of all slots.
inline bool padding_is_zero(const ops::ChannelSums& sums, int channels) {
  return padding_is_zero(sums.data, 2 * sums.slots, channels, sums.channels);
}

// What was accumulated: the start plus the sum.
inline Dense<Tracked> plus(const Dense<Tracked>& start, Dense<Tracked> sum) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += start[i];
  return sum;
}

}  // namespace mbconv::test
