#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lib/error.h"
#include "net/config.h"
#include "net/schedule.h"

using namespace mbconv;
using namespace mbconv::net;

namespace {

// Sizes and cost of the published models (recipe 3.1).
struct Expected {
  const char* name;
  size_t blocks;
  int skips, stem, head;
  int64_t parameters, buffers;
  double gmacs;
};
constexpr Expected kExpected[] = {
    {"b0", 16, 9, 32, 1280, 5288548, 42016, 0.386},
    {"b1", 23, 16, 32, 1280, 7794184, 62048, 0.687},
    {"b2", 23, 16, 32, 1408, 9109994, 67568, 0.994},
    {"b3", 26, 19, 40, 1536, 12233232, 87296, 1.827},
    {"b4", 32, 25, 48, 1792, 19341616, 125200, 4.394},
    {"b5", 39, 32, 48, 2048, 30389784, 172736, 10.266},
    {"b6", 45, 38, 56, 2304, 43040704, 224432, 19.068},
    {"b7", 55, 48, 64, 2560, 66347960, 310720, 37.746},
    {"b8", 61, 54, 72, 2816, 87413142, 380032, 62.597},
    {"l2", 88, 81, 136, 5504, 480309308, 1090688, 475.704},
};

}  // namespace

TEST_CASE("config: parameter and multiply-add counts of all ten published models") {
  for (const Expected& e : kExpected) {
    CAPTURE(e.name);
    const NetworkConfig network = network_config(published_model(e.name));
    const Counts counts = count(network);
    CHECK(counts.parameters == e.parameters);
    CHECK(counts.buffers == e.buffers);
    CHECK(std::abs(static_cast<double>(counts.macs) / 1e9 - e.gmacs) < 0.0006);
    CHECK(network.blocks.size() == e.blocks);
    CHECK(network.stem_channels == e.stem);
    CHECK(network.head_channels == e.head);
    int skips = 0;
    for (const BlockConfig& b : network.blocks) skips += b.residual;
    CHECK(skips == e.skips);
  }
}

TEST_CASE("config: training cost of B0 at 224 pixels is 2.289 GFLOP an image") {
  const Counts counts = count(network_config(published_model("b0")));
  CHECK(2e-9 * static_cast<double>(counts.training_macs) == doctest::Approx(2.289).epsilon(0.0005));
}

TEST_CASE("config: filters round to multiples of 8, never below 90 %") {
  CHECK(round_filters(32, 1.0) == 32);
  CHECK(round_filters(16, 1.1) == 16);
  CHECK(round_filters(40, 1.1) == 48);
  CHECK(round_filters(32, 0.25) == 8);
  CHECK(round_filters(16, 0.1) == 8);
  CHECK(round_filters(80, 0.35) == 32);  // 28 rounds to 32; 24 would be below 90 %
  CHECK(round_repeats(3, 1.1) == 4);
  CHECK(round_repeats(1, 0.3) == 1);
}

TEST_CASE("config: every expanded width at expansion 6 fills blocks of 48 channels") {
  for (const Expected& e : kExpected) {
    for (const BlockConfig& b : network_config(published_model(e.name)).blocks) {
      if (b.expanded != b.in) CHECK(b.expanded % 48 == 0);
      CHECK(b.in % 8 == 0);
    }
  }
}

TEST_CASE("config: a configuration that makes no network is refused by name and value") {
  ModelConfig model = published_model("b0");
  CHECK_THROWS_AS(published_model("b9"), Error);
  model.width = 0;
  CHECK_THROWS_WITH_AS(network_config(model),
                       "the width coefficient must be > 0 and at most 100, got 0", Error);
  model = published_model("b0");
  model.resolution = 0;
  CHECK_THROWS_AS(network_config(model), Error);
  model = published_model("b0");
  model.dropout = 1;
  CHECK_THROWS_AS(network_config(model), Error);
  model = published_model("b0");
  model.width = NAN;
  CHECK_THROWS_AS(network_config(model), Error);
}

TEST_CASE("schedule: linear warm-up from 0, then a cosine counted from step 0") {
  CHECK(cosine_learning_rate(0.02, 0, 1000, 10000) == 0.0);
  CHECK(cosine_learning_rate(0.02, 500, 1000, 10000) == doctest::Approx(0.01));
  CHECK(cosine_learning_rate(0.02, 5000, 1000, 10000) == doctest::Approx(0.01));
  CHECK(cosine_learning_rate(0.02, 1000, 1000, 10000) ==
        doctest::Approx(0.02 * (1 + std::cos(M_PI / 10)) / 2));
  CHECK(cosine_learning_rate(0.02, 10000, 1000, 10000) == doctest::Approx(0.0));
  CHECK(cosine_learning_rate(0.02, 3, 0, 10) ==
        doctest::Approx(0.02 * (1 + std::cos(0.3 * M_PI)) / 2));
}
