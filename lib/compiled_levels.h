#pragma once

#include <array>
#include <cstddef>
#include <iterator>

#include "lib/isa.h"

namespace mbconv {

// What meson's option `levels` names.
inline constexpr Isa kCompiledLevels[] = {MBCONV_COMPILED_LEVELS};

// A table of variants, one a level, without those of levels that are not compiled in. Nothing
// refers to their functions afterwards, which need not exist.
template <class Variant, size_t kLevels>
consteval auto compiled(const Variant (&variants)[kLevels]) {
  std::array<Variant, std::size(kCompiledLevels)> table{};
  size_t count = 0;
  for (const Variant& variant : variants) {
    for (const Isa isa : kCompiledLevels) {
      if (variant.isa == isa) table[count++] = variant;
    }
  }
  if (count != table.size()) throw "a level is missing in the table";
  return table;
}

}  // namespace mbconv
