#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace mbconv {

// What a random number is for. Each purpose has a stream of its own, so that adding a draw to one
// never shifts another.
enum class Purpose : uint32_t { initialise, shuffle, augment, dropout, synthetic };

// Counter-based generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). The stream is a pure function of (seed, epoch, sample, purpose) and of
// nothing else, so results do not depend on which worker draws.
class Rng {
 public:
  Rng(uint64_t seed, uint32_t epoch, uint64_t sample, Purpose purpose)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        counter_{0, epoch ^ (static_cast<uint32_t>(purpose) << 24), static_cast<uint32_t>(sample),
                 static_cast<uint32_t>(sample >> 32)} {}

  uint32_t next() {
    if (used_ == 4) {
      block_ = philox(counter_, key_);
      ++counter_[0];
      used_ = 0;
    }
    return block_[used_++];
  }

  // Uniform in [0, 1), with 24 bits.
  float uniform() { return static_cast<float>(next() >> 8) * 0x1p-24f; }
  // Uniform in [low, high).
  float uniform(float low, float high) { return low + (high - low) * uniform(); }
  // Uniform integer in [0, bound), bound >= 1 (Lemire's multiplication; bias below bound / 2^64).
  uint64_t below(uint64_t bound) {
    const uint64_t x = (uint64_t{next()} << 32) | next();
    return static_cast<uint64_t>((static_cast<Uint128>(x) * bound) >> 64);
  }
  // Normal with mean 0 and standard deviation 1 (Box-Muller, one value a call).
  float normal() {
    const double u = (next() + 1.0) * 0x1p-32;
    const double v = next() * 0x1p-32;
    return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2 * std::numbers::pi * v));
  }

 private:
  using Block = std::array<uint32_t, 4>;
  __extension__ using Uint128 = unsigned __int128;

  static Block philox(Block c, std::array<uint32_t, 2> k) {
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
      const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
      c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
           static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
      k[0] += 0x9E3779B9;
      k[1] += 0xBB67AE85;
    }
    return c;
  }

  std::array<uint32_t, 2> key_;
  Block counter_;
  Block block_{};
  int used_ = 4;
};

}  // namespace mbconv
