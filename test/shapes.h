#pragma once

#include <vector>

#include "lib/tensor.h"
#include "test/levels.h"

namespace mbconv::test {

struct Map {
  int n, h, w;
};

// Batches and maps: those of small pictures and odd ones.
inline constexpr Map kMaps[] = {{5, 1, 1},   {3, 2, 2},   {2, 3, 3},  {1, 4, 4},
                                {2, 5, 7},   {3, 7, 7},   {2, 8, 8},  {1, 9, 9},
                                {1, 15, 15}, {1, 17, 19}, {1, 28, 28}};

// A map of which 48 channels are more than ops keep in caches: they store such tensors past them.
inline constexpr Map kLargeMap = {2, 107, 105};

// The blocks of EfficientNet-B0, one of each kind, on maps of a small picture: channels in,
// expanded, out, then kernel size, stride and input map.
struct Block {
  int cin, expanded, cout, ksize, stride;
  Map map;
};
inline constexpr Block kBlocks[] = {
    {32, 32, 16, 3, 1, {1, 16, 16}},  {16, 96, 24, 3, 2, {1, 16, 16}},
    {24, 144, 24, 3, 1, {2, 8, 8}},   {24, 144, 40, 5, 2, {1, 9, 9}},
    {40, 240, 40, 5, 1, {3, 5, 7}},   {40, 240, 80, 3, 2, {2, 7, 7}},
    {112, 672, 192, 5, 2, {1, 4, 4}}, {192, 1152, 320, 3, 1, {1, 2, 2}},
};

// All of them, or on an emulated CPU only the first `small`.
template <class T, size_t N>
std::vector<T> some(const T (&all)[N], size_t small) {
  return std::vector<T>(all, all + (small_run() && small < N ? small : N));
}
template <class T>
std::vector<T> some(std::vector<T> all, size_t small) {
  if (small_run() && small < all.size()) all.resize(small);
  return all;
}

}  // namespace mbconv::test
