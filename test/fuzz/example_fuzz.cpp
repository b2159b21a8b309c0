// Bytes as a tf.train.Example: they are parsed, or refused with an Error; what was parsed survives
// being written and parsed again.

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "io/example.h"
#include "lib/error.h"

using namespace mbconv;
using namespace mbconv::io;

namespace {

void expect(bool condition) {
  if (!condition) std::abort();
}

template <class T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

bool same(const Feature& a, const Feature& b) {
  if (a.index() != b.index()) return false;
  if (const auto* floats = std::get_if<std::vector<float>>(&a))
    return same_bytes(*floats, std::get<std::vector<float>>(b));  // NaN included
  if (const auto* numbers = std::get_if<std::vector<int64_t>>(&a))
    return same_bytes(*numbers, std::get<std::vector<int64_t>>(b));
  const auto &x = std::get<std::vector<Bytes>>(a), &y = std::get<std::vector<Bytes>>(b);
  if (x.size() != y.size()) return false;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i].size() != y[i].size()) return false;
    if (!x[i].empty() && std::memcmp(x[i].data(), y[i].data(), x[i].size()) != 0) return false;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes record = std::as_bytes(std::span(data, size));
  try {
    parse_labelled_image(record, {});
  } catch (const Error&) {
  }
  try {
    const auto features = parse_example(record);
    const std::vector<std::byte> written = make_example(features);
    const auto again = parse_example(written);
    expect(again.size() == features.size());
    for (const auto& [key, value] : features) {
      const auto found = again.find(key);
      expect(found != again.end() && same(found->second, value));
    }
  } catch (const Error&) {
  }
  return 0;
}
