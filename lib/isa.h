#pragma once

#include <string>
#include <string_view>

namespace mbconv {

// Instruction-set levels, each a published bundle, in ascending order:
//   generic  any x86-64 CPU
//   avx2     x86-64-v3: AVX2, FMA, F16C, BMI1, BMI2, LZCNT, MOVBE
//   avx512   x86-64-v4: v3 and AVX-512 F, CD, BW, DQ, VL
enum class Isa { generic, avx2, avx512 };

inline constexpr Isa kIsaLevels[] = {Isa::generic, Isa::avx2, Isa::avx512};

std::string_view name(Isa isa);

// Whether this library has the kernels of a level: meson's option `levels`.
bool is_compiled(Isa isa);

// The highest level that both the CPU (CPUID) and the operating system (XCR0) offer.
Isa cpu_isa();

// The highest compiled level up to that.
Isa host_isa();

// The level to run at: `forced` if not empty, else the environment variable MBCONV_ISA if set, else
// host_isa(). Throws Error, listing the valid names, if the name is unknown, the host lacks the
// level or it is not compiled in.
Isa select_isa(std::string_view forced = {});

// The names that select_isa accepts here, "generic, avx2" for example.
std::string available_isas();

}  // namespace mbconv
