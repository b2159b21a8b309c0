#include "bench/case.h"

namespace mbconv::bench {

Buffer& Memory::take(size_t bytes) {
  bytes_ += bytes;
  return buffers_.emplace_back(bytes);
}

float* Memory::floats(size_t count, float low, float high) {
  float* p = take(count * sizeof(float)).as<float>();
  for (size_t i = 0; i < count; ++i) {
    state_ = state_ * 1664525u + 1013904223u;
    p[i] = low + (high - low) * static_cast<float>(state_ >> 8) * 0x1p-24f;
  }
  return p;
}

double* Memory::doubles(size_t count) {
  return take(count * sizeof(double)).as<double>();
}

float* Memory::vector(const Shape& s, float low, float high) {
  return floats(static_cast<size_t>(s.padded_c()), low, high);
}

float* Memory::per_image(const Shape& s, float low, float high) {
  return floats(static_cast<size_t>(s.n) * static_cast<size_t>(s.padded_c()), low, high);
}

View<float> Memory::tensor(const Shape& s) {
  tensor_bytes_ += s.size() * sizeof(float);
  return {floats(s.size()), s};
}

ops::Packed<float> Memory::matrix(int k, int n) {
  const ops::Packed<float> w{nullptr, k, n};
  return {floats(w.size()), k, n};
}

ops::ChannelSums Memory::sums(int slots, const Shape& of) {
  return {doubles(ops::ChannelSums::size(slots, of.padded_c())), slots, of.padded_c()};
}

ops::Deferred Memory::deferred(const Shape& s, const Layer& layer) {
  ops::Deferred x;
  x.y = tensor(s);
  if (!layer.norm) return x;
  x.scale = vector(s, 0.5f, 1.5f);
  x.shift = vector(s);
  x.activation = layer.activation;
  if (layer.skip) x.skip = tensor(s);
  return x;
}

ops::Finish Memory::finish(const Shape& s, ops::Activation activation) {
  ops::Finish finish;
  finish.bias = vector(s);
  finish.activation = activation;
  return finish;
}

ops::DeferredGrad Memory::grad(const Shape& s) {
  ops::DeferredGrad dy;
  dy.g = tensor(s);
  dy.y = tensor(s);
  dy.scale = vector(s, 0.5f, 1.5f);
  dy.shift = vector(s);
  dy.mean = vector(s);
  dy.a = vector(s, 0.5f, 1.5f);
  dy.b = vector(s);
  dy.d = vector(s);
  return dy;
}

ops::InputGrad Memory::input_grad(const ops::Deferred& x, const Layer& layer, int slots) {
  const Shape& s = x.y.shape;
  ops::InputGrad dx;
  dx.dz = tensor(s);
  if (!layer.norm) return dx;
  if (layer.residual) dx.skip = tensor(s);
  dx.y = x.scale != nullptr ? x.y : View<const float>(tensor(s));
  dx.scale = x.scale != nullptr ? x.scale : vector(s, 0.5f, 1.5f);
  dx.shift = x.scale != nullptr ? x.shift : vector(s);
  dx.activation = layer.activation;
  dx.mean = vector(s);
  dx.invstd = vector(s, 0.5f, 1.5f);
  dx.sums = sums(slots, s);
  return dx;
}

}  // namespace mbconv::bench
