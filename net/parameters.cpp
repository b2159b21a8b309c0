#include "net/parameters.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <sstream>

#include "lib/error.h"
#include "lib/rng.h"

namespace mbconv::net {
namespace {

// Rows and columns of the matrix a parameter is stored as, and whether it is Packed.
struct Matrix {
  int rows, columns;
  bool packed;
};

Matrix matrix(const Parameter& p) {
  const auto d = [&](size_t i) { return static_cast<int>(p.shape[i]); };
  switch (p.layout) {
    case Layout::conv1x1:
      return {d(1), d(0), true};
    case Layout::depthwise:
      return {d(2) * d(3), d(0), true};
    case Layout::stem:
      return {d(1) * d(2) * d(3), d(0), true};
    case Layout::rows:
      return {d(0), d(1), false};
    case Layout::rows_of_transpose:
      return {d(1), d(0), false};
    case Layout::vector:
      return {1, d(0), false};
  }
  throw Error("unknown parameter layout");
}

// Calls body(index in the file, row, column) for every element.
template <class Body>
void for_each_element(const Parameter& p, const Body& body) {
  const Matrix m = matrix(p);
  const int taps = p.layout == Layout::stem ? 9 : 1, inputs = m.rows / taps;
  int64_t i = 0;
  if (p.layout == Layout::rows || p.layout == Layout::vector) {
    for (int r = 0; r < m.rows; ++r) {
      for (int c = 0; c < m.columns; ++c) body(i++, r, c);
    }
    return;
  }
  // Output channels come first in the file, then input channels, then filter positions.
  for (int c = 0; c < m.columns; ++c) {
    for (int in = 0; in < inputs; ++in) {
      for (int t = 0; t < taps; ++t) body(i++, t * inputs + in, c);
    }
  }
}

size_t place(const Matrix& m, int row, int column) {
  if (!m.packed)
    return static_cast<size_t>(row) * static_cast<size_t>(round_up(m.columns, kLane)) +
           static_cast<size_t>(column);
  return static_cast<size_t>(
      ops::Packed<const float>{nullptr, m.rows, m.columns}.place(row, column));
}

std::string to_string(const std::vector<int64_t>& shape) {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < shape.size(); ++i) out << (i > 0 ? "," : "") << shape[i];
  out << ']';
  return out.str();
}

// A normal variable of standard deviation `stddev`, redrawn beyond two of them.
float truncated_normal(Rng& rng, float stddev) {
  for (;;) {
    const float x = rng.normal();
    if (std::abs(x) <= 2.0f) return x * stddev;
  }
}

float initial_value(const Parameter& p, Rng& rng) {
  const Matrix m = matrix(p);
  const double fan_in = p.layout == Layout::rows || p.layout == Layout::rows_of_transpose
                            ? static_cast<double>(p.shape[1])
                            : m.rows;
  switch (p.initial) {
    case Initial::he_normal:
      // 0.8796 is the standard deviation of a unit normal cut at two.
      return truncated_normal(rng,
                              static_cast<float>(std::sqrt(2.0 / fan_in) / 0.87962566103423978));
    case Initial::he_uniform: {
      const float limit = static_cast<float>(std::sqrt(6.0 / fan_in));
      return rng.uniform(-limit, limit);
    }
    case Initial::glorot_uniform: {
      const float limit = static_cast<float>(std::sqrt(6.0 / (fan_in + m.columns)));
      return rng.uniform(-limit, limit);
    }
    case Initial::zero:
      return 0.0f;
    case Initial::one:
      return 1.0f;
  }
  return 0.0f;
}

}  // namespace

Parameters::Id Parameters::add(std::string name, std::vector<int64_t> shape, Layout layout,
                               Initial initial, bool trainable, bool decayed) {
  Parameter p{std::move(name), std::move(shape), layout, initial, trainable, decayed, total_, 0};
  const Matrix m = matrix(p);
  p.size = static_cast<size_t>(m.rows) * static_cast<size_t>(round_up(m.columns, kLane));
  total_ += p.size;
  if (trainable) ops::append_segments(p.offset, p.size, decayed, segments_);
  list_.push_back(std::move(p));
  return list_.size() - 1;
}

void Parameters::add_counter(std::string name) {
  counters_.push_back({std::move(name) + ".num_batches_tracked", list_.size(), 0});
}

void Parameters::allocate(bool training) {
  values_ = Buffer(total_ * sizeof(float));
  if (!training) return;
  gradients_ = Buffer(total_ * sizeof(float));
  momentum_ = Buffer(total_ * sizeof(float));
  squares_.resize(segments_.size());
}

void Parameters::initialise(uint64_t seed) {
  for (Id id = 0; id < list_.size(); ++id) {
    const Parameter& p = list_[id];
    const Matrix m = matrix(p);
    Rng rng(seed, 0, id, Purpose::initialise);
    for_each_element(p,
                     [&](int64_t, int r, int c) { w(id)[place(m, r, c)] = initial_value(p, rng); });
  }
}

double Parameters::update(const ops::Context& context, float lr, float momentum, float decay) {
  return ops::sgd_update(
      context, {values_.as<float>(), gradients_.as<float>(), momentum_.as<float>(), lr, momentum,
                decay, segments_, squares_.data()});
}

double Parameters::sum_of_squares() const {
  return ops::sum_of_squares(values_.as<float>(), segments_);
}

std::string Parameters::not_finite() const {
  const auto all_finite = [](const float* values, size_t count) {
    return std::all_of(values, values + count, [](float v) { return std::isfinite(v); });
  };
  for (const Parameter& p : list_) {
    const bool has_momentum = p.trainable && momentum_.size() > 0;
    if (!all_finite(values_.as<float>() + p.offset, p.size) ||
        (has_momentum && !all_finite(momentum_.as<float>() + p.offset, p.size))) {
      return p.name;
    }
  }
  return "";
}

void Parameters::count_batch() {
  for (Counter& c : counters_) ++c.value;
}

ops::Packed<float> Parameters::packed(Id id, float* data) const {
  const Matrix m = matrix(list_[id]);
  return {data, m.rows, m.columns};
}

NamedTensor Parameters::to_file_order(const Parameter& p, const float* from) const {
  NamedTensor tensor{p.name, Dtype::f32, p.shape, {}};
  tensor.bytes.resize(static_cast<size_t>(tensor.count()) * sizeof(float));
  const Matrix m = matrix(p);
  float* to = tensor.values<float>();
  for_each_element(p, [&](int64_t i, int r, int c) { to[i] = from[place(m, r, c)]; });
  return tensor;
}

void Parameters::from_file_order(const Parameter& p, const NamedTensor& tensor, float* to) const {
  require(tensor.dtype == Dtype::f32, "tensor '", p.name, "' is not of floats");
  require(tensor.shape == p.shape, "tensor '", p.name, "' has shape ", to_string(tensor.shape),
          ", expected ", to_string(p.shape));
  const Matrix m = matrix(p);
  const float* from = tensor.values<float>();
  for_each_element(p, [&](int64_t i, int r, int c) { to[place(m, r, c)] = from[i]; });
}

std::vector<NamedTensor> Parameters::save() const {
  std::vector<NamedTensor> tensors;
  size_t next = 0;
  const auto add_counters = [&](size_t before) {
    for (; next < counters_.size() && counters_[next].after == before; ++next) {
      NamedTensor scalar{
          counters_[next].name, Dtype::i64, {}, std::vector<std::byte>(sizeof(int64_t))};
      *scalar.values<int64_t>() = counters_[next].value;
      tensors.push_back(std::move(scalar));
    }
  };
  for (Id id = 0; id < list_.size(); ++id) {
    add_counters(id);
    tensors.push_back(to_file_order(list_[id], w(id)));
  }
  add_counters(list_.size());
  return tensors;
}

std::vector<NamedTensor> Parameters::save_momentum() const {
  std::vector<NamedTensor> tensors;
  for (const Parameter& p : list_) {
    if (p.trainable) tensors.push_back(to_file_order(p, momentum_.as<float>() + p.offset));
  }
  return tensors;
}

void Parameters::load(const TensorFile& file, const std::string& except) {
  const auto excepted = [&](const std::string& name) {
    return !except.empty() && name.starts_with(except);
  };
  std::set<std::string> known;
  for (Id id = 0; id < list_.size(); ++id) {
    known.insert(list_[id].name);
    if (excepted(list_[id].name)) continue;
    const NamedTensor* tensor = file.find(list_[id].name);
    require(tensor != nullptr, "tensor '", list_[id].name, "' is missing");
    from_file_order(list_[id], *tensor, w(id));
  }
  for (Counter& counter : counters_) {
    known.insert(counter.name);
    // Files of converted TensorFlow weights may lack the counters, which mean nothing to them.
    const NamedTensor* tensor = file.find(counter.name);
    if (tensor == nullptr) continue;
    require(tensor->dtype == Dtype::i64 && tensor->count() == 1, "tensor '", counter.name,
            "' is not an int64 scalar");
    counter.value = *tensor->values<int64_t>();
  }
  for (const NamedTensor& tensor : file.tensors) {
    require(known.contains(tensor.name) || excepted(tensor.name), "unknown tensor '", tensor.name,
            "'");
  }
}

void Parameters::load_momentum(const TensorFile& file) {
  for (const Parameter& p : list_) {
    if (!p.trainable) continue;
    const NamedTensor* tensor = file.find(p.name);
    require(tensor != nullptr, "the momentum of '", p.name, "' is missing");
    from_file_order(p, *tensor, momentum_.as<float>() + p.offset);
  }
}

}  // namespace mbconv::net
