#pragma once

#include <span>
#include <string_view>

#include "lib/isa.h"

namespace mbconv::ops {

// One implementation of an op: the level it needs, its printable name, its function. An op's
// variants are a table, best first, ending in `generic`.
template <class Function>
struct Variant {
  Isa isa;
  std::string_view name;
  Function* function;
};

// The first entry of `variants` at or below `level`.
template <class Function>
constexpr const Variant<Function>& pick(std::span<const Variant<Function>> variants, Isa level) {
  for (const auto& variant : variants) {
    if (variant.isa <= level) return variant;
  }
  return variants.back();
}

}  // namespace mbconv::ops
