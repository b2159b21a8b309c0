#include "lib/isa.h"

#include <cpuid.h>

#include <cstdint>
#include <cstdlib>

#include "lib/compiled_levels.h"
#include "lib/error.h"

namespace mbconv {
namespace {

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool has(uint32_t value, uint32_t bits) {
  return (value & bits) == bits;
}

// Which register files the operating system saves on a context switch.
uint64_t xcr0() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

// The highest level of the CPU and the operating system.
Isa detect() {
  const uint32_t leaf1 = cpuid(1).ecx;
  if (!has(leaf1, bit_OSXSAVE)) return Isa::generic;
  const uint64_t saved = xcr0();
  const uint32_t leaf7 = cpuid(7).ebx;
  const uint32_t extended = cpuid(0x80000001).ecx;

  constexpr uint64_t kYmmState = 0x6;   // XMM and upper YMM
  constexpr uint64_t kZmmState = 0xe0;  // mask registers, upper ZMM, ZMM16..31
  constexpr uint32_t kLzcnt = 1u << 5;
  constexpr uint32_t kV3Leaf1 = bit_AVX | bit_FMA | bit_F16C | bit_MOVBE;
  constexpr uint32_t kV3Leaf7 = bit_AVX2 | bit_BMI | bit_BMI2;
  constexpr uint32_t kV4Leaf7 =
      bit_AVX512F | bit_AVX512CD | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;

  const bool v3 = (saved & kYmmState) == kYmmState && has(leaf1, kV3Leaf1) &&
                  has(leaf7, kV3Leaf7) && has(extended, kLzcnt);
  if (!v3) return Isa::generic;
  const bool v4 = (saved & kZmmState) == kZmmState && has(leaf7, kV4Leaf7);
  return v4 ? Isa::avx512 : Isa::avx2;
}

bool is_available(Isa isa) {
  return isa <= cpu_isa() && is_compiled(isa);
}

}  // namespace

std::string_view name(Isa isa) {
  switch (isa) {
    case Isa::generic:
      return "generic";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "unknown";
}

bool is_compiled(Isa isa) {
  for (const Isa compiled : kCompiledLevels) {
    if (compiled == isa) return true;
  }
  return false;
}

Isa cpu_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa host_isa() {
  Isa highest = Isa::generic;
  for (const Isa isa : kIsaLevels) {
    if (is_available(isa)) highest = isa;
  }
  return highest;
}

std::string available_isas() {
  std::string names;
  for (const Isa isa : kIsaLevels) {
    if (!is_available(isa)) continue;
    if (!names.empty()) names += ", ";
    names += name(isa);
  }
  return names;
}

Isa select_isa(std::string_view forced) {
  std::string_view wanted = forced;
  if (wanted.empty()) {
    if (const char* environment = std::getenv("MBCONV_ISA")) wanted = environment;
  }
  if (wanted.empty()) return host_isa();
  for (const Isa isa : kIsaLevels) {
    if (name(isa) != wanted) continue;
    require(isa <= cpu_isa(), "ISA level '", wanted,
            "' is not available on this CPU; available: ", available_isas());
    require(is_compiled(isa), "ISA level '", wanted,
            "' is not compiled into this program; available: ", available_isas());
    return isa;
  }
  throw Error("unknown ISA level '", wanted, "'; available: ", available_isas());
}

}  // namespace mbconv
