#include "bin/train_options.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "bin/run_folder.h"
#include "test/network_support.h"

using namespace mbconv;
using namespace mbconv::bin;

namespace {

// Every option of a run that is a number.
std::vector<double> numbers(const TrainArgs& a) {
  const io::AugmentRanges& g = a.ranges;
  const net::TrainOptions& r = a.recipe;
  std::vector<double> all = {a.epochs,
                             r.lr,
                             r.momentum,
                             r.weight_decay,
                             r.label_smoothing,
                             g.min_area,
                             g.max_area,
                             g.min_aspect,
                             g.max_aspect,
                             g.flip_probability,
                             g.rotation_degrees,
                             g.hue,
                             g.min_saturation,
                             g.max_saturation,
                             g.brightness,
                             g.pca_stddev,
                             static_cast<double>(a.batch),
                             static_cast<double>(a.prefetch),
                             static_cast<double>(a.prefetch_bytes),
                             static_cast<double>(a.shuffle_block),
                             static_cast<double>(a.shuffle_window),
                             static_cast<double>(a.steps),
                             static_cast<double>(a.log_every),
                             static_cast<double>(a.checkpoint_every_steps),
                             static_cast<double>(r.warmup_steps),
                             static_cast<double>(a.records.max_side)};
  for (const float v : a.normalisation.mean) all.push_back(v);
  for (const float v : a.normalisation.stddev) all.push_back(v);
  return all;
}

// Defaults of another version: every number differs.
TrainArgs other_defaults() {
  TrainArgs a;
  io::AugmentRanges& g = a.ranges;
  for (float* v : {&g.min_area, &g.max_area, &g.min_aspect, &g.max_aspect, &g.flip_probability,
                   &g.rotation_degrees, &g.hue, &g.min_saturation, &g.max_saturation, &g.brightness,
                   &g.pca_stddev}) {
    *v = std::nextafter(*v, 0.0f);
  }
  net::TrainOptions& r = a.recipe;
  for (double* v : {&a.epochs, &r.lr, &r.momentum, &r.weight_decay, &r.label_smoothing})
    *v = std::nextafter(*v, 0.0);
  for (float& v : a.normalisation.mean) v = std::nextafter(v, 0.0f);
  for (float& v : a.normalisation.stddev) v = std::nextafter(v, 0.0f);
  for (int* v : {&a.batch, &a.prefetch, &a.records.max_side}) ++*v;
  for (int64_t* v : {&a.steps, &a.log_every, &a.checkpoint_every_steps, &r.warmup_steps}) ++*v;
  ++a.prefetch_bytes;
  for (size_t* v : {&a.shuffle_block, &a.shuffle_window}) ++*v;
  a.seed = (uint64_t{1} << 63) + 1;
  return a;
}

// What a run of `second`'s defaults takes over from the config.json of a run of `first`'s.
void take_over(TrainArgs& first, TrainArgs& second) {
  Options before("", "train"), after("", "train");
  add_train_options(before, first);
  add_train_options(after, second);
  take_options_of_run(after, config_json(before, net::published_model("b0"), Isa::generic));
}

class Folder {
 public:
  Folder()
      : path(std::filesystem::temp_directory_path() / ("mbconv-run-" + std::to_string(getpid()))) {}
  ~Folder() { std::filesystem::remove_all(path); }
  const std::filesystem::path path;
};

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("train options: config.json gives every number back bit for bit") {
  TrainArgs a, b = other_defaults();
  for (size_t i = 0; i < numbers(a).size(); ++i) {
    CAPTURE(i);
    REQUIRE(numbers(a)[i] != numbers(b)[i]);
  }
  const TrainArgs other = b;
  take_over(a, b);
  CHECK(numbers(b) == numbers(a));
  CHECK(b.seed == 0);

  TrainArgs c = other, d;
  take_over(c, d);
  CHECK(numbers(d) == numbers(other));
  CHECK(d.seed == other.seed);
}

TEST_CASE("train options: a damaged config.json is refused") {
  for (const char* config : {"", "{", "[]", "{}", "{\"options\": {\"lr\": \"fast\"}}"}) {
    TrainArgs args;
    Options app("", "train");
    add_train_options(app, args);
    CHECK_THROWS_AS(take_options_of_run(app, config), Error);
  }
}

TEST_CASE("run folder: a checkpoint that is not finite leaves the last one as it was") {
  Workers workers(1);
  const net::ModelConfig model = test::narrow_model();
  net::EfficientNet network(net::network_config(model), 1, net::Mode::training, workers,
                            Isa::generic);
  net::Parameters& parameters = network.parameters();
  parameters.initialise(1);
  const Folder scratch;
  RunFolder folder(scratch.path, false);
  folder.create();
  net::CheckpointInfo info;
  info.model = model;
  folder.save_last(network, info, {1, 1, 0}, {});
  const std::string before = read(folder.last());
  REQUIRE(!before.empty());
  for (net::Parameters::Id id = 0; id < parameters.list().size(); id += 7) {
    float& value = parameters.w(id)[0];
    const float kept = value;
    value = NAN;
    ++info.step;
    CHECK_THROWS_AS(folder.save_last(network, info, {1, 1, 0}, {}), Error);
    CHECK(read(folder.last()) == before);
    value = kept;
  }
  CHECK_NOTHROW(folder.save_last(network, info, {1, 1, 0}, {}));
  CHECK(read(folder.last()) != before);
}
