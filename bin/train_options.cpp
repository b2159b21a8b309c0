#include "bin/train_options.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <type_traits>

namespace mbconv::bin {
namespace {

std::optional<std::array<float, 3>> parse_channels(std::string_view text) {
  std::array<float, 3> values{};
  const char *at = text.data(), *const end = at + text.size();
  for (size_t c = 0; c < 3; ++c) {
    const auto [rest, error] = std::from_chars(at, end, values[c]);
    const bool separated = c < 2 ? rest != end && *rest == ',' : rest == end;
    if (error != std::errc() || !separated || !std::isfinite(values[c])) return std::nullopt;
    at = rest + 1;
  }
  return values;
}

// Adds options of one group, with the default shown.
class Group {
 public:
  Group(Options& app, const char* name) : app_(app), name_(name) {}

  template <class T>
  Option option(const char* flag, T& value, const char* help) const {
    Option option = app_.add(flag, value, help).show_default().group(name_);
    // A default that is not exact would not come back from config.json.
    if constexpr (std::is_arithmetic_v<T>) option.show_default(exact_text(value));
    return option;
  }
  template <class T>
  void number(const char* flag, T& value, const char* help, double low, double high) const {
    if constexpr (std::is_integral_v<T>) {
      option(flag, value, help).whole(static_cast<int64_t>(low), static_cast<uint64_t>(high));
    } else {
      option(flag, value, help).between(low, high);
    }
  }
  // Three numbers by commas.
  void channels(const char* flag, std::array<float, 3>& value, const char* help) const {
    const auto wrong = [](const std::string& text) {
      return parse_channels(text)
                 ? std::string()
                 : text + " is not three finite numbers by commas, one each for R, G, B";
    };
    app_.add_text(
            flag, "R,G,B", [&value](const std::string& text) { value = *parse_channels(text); },
            wrong, help)
        .show_default(exact_text(value[0]) + "," + exact_text(value[1]) + "," +
                      exact_text(value[2]))
        .group(name_);
  }
  void flag(const char* flag, bool& value, const char* help) const {
    app_.add_flag(flag, value, help).group(name_);
  }
  void one_of(const char* flag, std::string& value, const char* help,
              const std::vector<std::string>& values) const {
    option(flag, value, help).one_of(values);
  }

 private:
  Options& app_;
  const char* name_;
};

void add_data_options(Options& app, TrainArgs& a) {
  const Group data(app, "Data");
  data.option("--train-data", a.train_data,
              "Glob of the training TFRecord files, several by commas");
  data.option("--val-data", a.val_data,
              "Glob of the validation TFRecord files; without, no validation");
  data.number("--batch", a.batch, "Images a step", 1, 1 << 20);
  add_order_options(app, a);
  data.number("--prefetch", a.prefetch, "Batches prepared ahead", 1, 1000);
  data.option("--prefetch-bytes", a.prefetch_bytes,
              "Bound of the batches prepared ahead, in bytes (500M, 2G); 0: none")
      .byte_size();
  add_shard_option(
      app, a.shard,
      "I/N: of N processes, take part I (from 0) of the training images of each epoch");
}

void add_run_options(Options& app, TrainArgs& a) {
  const Group run(app, "Run");
  run.option("--out", a.out, "Folder for checkpoints, log and TensorBoard events");
  run.flag("--resume", a.resume, "Go on with the run in --out, with its options unless given anew");
  run.option(
      "--init", a.init,
      "safetensors file to start from, with timm's names; where its number of classes differs, "
      "all but the classifier is taken");
  run.option("--seed", a.seed, "Of weights, order, augmentation and dropout")
      .whole(0, std::numeric_limits<uint64_t>::max());
  run.number("--log-every", a.log_every, "Steps between rows of the log", 1, kMaxCount);
  run.number("--checkpoint-every-steps", a.checkpoint_every_steps,
             "Steps between checkpoints, beside the one after every epoch; 0: none", 0, kMaxCount);
  run.flag("--memory-plan", a.memory_plan, "Print the whole memory plan");
}

void add_recipe_options(Options& app, TrainArgs& a) {
  const Group recipe(app, "Recipe");
  net::TrainOptions& r = a.recipe;
  recipe.number("--epochs", a.epochs, "Passes over the training data", 1e-9, 1e9);
  recipe.number("--steps", a.steps,
                "Length of the run and of the cosine, instead of --epochs; 0: by epochs", 0,
                kMaxCount);
  recipe.number("--lr", r.lr, "Learning rate after the warm-up", 0, 1e9);
  recipe.number("--warmup-steps", r.warmup_steps, "Steps of linear warm-up", 0, kMaxCount);
  recipe.number("--momentum", r.momentum, "Momentum of SGD", 0, 1);
  recipe.number("--weight-decay", r.weight_decay,
                "Times the sum of squared convolution kernels, added to the loss", 0, 1e9);
  recipe.number("--label-smoothing", r.label_smoothing,
                "Share of the target spread over all classes", 0, 0.999999);
}

}  // namespace

void add_order_options(Options& app, TrainArgs& a) {
  const Group data(app, "Data");
  data.one_of(
      "--shuffle", a.shuffle,
      "Order of the records: anew in every epoch (on); for slow disks, blocks of neighbours "
      "in random order, mixed in a window (block); or as they lie (off)",
      {"on", "block", "off"});
  data.number("--shuffle-block", a.shuffle_block, "Records of a block", 1, 1e9);
  data.number("--shuffle-window", a.shuffle_window,
              "Records mixed with each other; memory should hold two windows", 1, 1e9);
}

void add_augment_options(Options& app, TrainArgs& a) {
  const Group augment(app, "Augmentation");
  io::AugmentRanges& g = a.ranges;
  augment.one_of("--augment", a.augment,
                 "recipe, or none: training images are prepared as validation images",
                 {"recipe", "none"});
  augment.number("--crop-min-area", g.min_area, "Smallest crop, fraction of the image", 1e-6, 1);
  augment.number("--crop-max-area", g.max_area, "Largest crop", 1e-6, 1);
  augment.number("--crop-min-aspect", g.min_aspect, "Smallest height over width of a crop", 1e-3,
                 1e3);
  augment.number("--crop-max-aspect", g.max_aspect, "Largest height over width of a crop", 1e-3,
                 1e3);
  augment.number("--flip-probability", g.flip_probability, "Of a horizontal flip", 0, 1);
  augment.number("--rotation-degrees", g.rotation_degrees, "Angle, uniform in +-", 0, 180);
  augment.number("--hue", g.hue, "Shift of the hue, uniform in +-, fraction of the circle", 0, 0.5);
  augment.number("--min-saturation", g.min_saturation, "Smallest saturation factor", 0, 100);
  augment.number("--max-saturation", g.max_saturation, "Largest saturation factor", 0, 100);
  augment.number("--brightness", g.brightness, "Offset, uniform in +-, of values in 0..255", 0,
                 255);
  augment.number("--pca-stddev", g.pca_stddev, "Deviation of the PCA noise", 0, 100);
  augment.channels("--mean", a.normalisation.mean, "Subtracted from the channels");
  augment.channels("--stddev", a.normalisation.stddev, "Divides the channels");
}

void add_train_options(Options& app, TrainArgs& args) {
  add_data_options(app, args);
  add_record_options(app, args.records);
  add_fault_options(app, args.faults, {"strict", "skip", "quarantine"});
  add_model_options(app, args.model);
  add_recipe_options(app, args);
  add_augment_options(app, args);
  add_run_options(app, args);
  add_machine_options(app, args.machine);
}

std::string config_json(const Options& app, const net::ModelConfig& model, Isa isa) {
  nlohmann::ordered_json options, json;
  for (const OptionValue& option : app.values()) options[option.name] = option.value;
  json["program"] = "train";
  json["version"] = MBCONV_VERSION;
  json["isa"] = name(isa);
  json["network"] = {{"model", model.name},
                     {"width", model.width},
                     {"depth", model.depth},
                     {"resolution", model.resolution},
                     {"classes", model.classes}};
  json["options"] = options;
  return json.dump(2) + "\n";
}

void take_options_of_run(Options& app, const std::string& config) {
  static const std::set<std::string> kOfThisRun = {"resume", "out", "threads"};
  const auto json = nlohmann::json::parse(config, nullptr, false);
  require(json.is_object() && json.contains("options"), "config.json is damaged");
  for (const auto& [name, now, group, given, flag] : app.values()) {
    if (given || kOfThisRun.contains(name) || group == kModelGroup) continue;
    const auto entry = json["options"].find(name);
    if (entry == json["options"].end() || !entry->is_string()) continue;
    const std::string value = entry->get<std::string>();
    if (value.empty() || (flag && value != "true")) continue;
    try {
      if (name == "isa") select_isa(value);
      app.set(name, value);
    } catch (const std::exception& e) {
      throw Error("config.json: --", name, ": ", e.what(), "; give --", name,
                  " to go on otherwise");
    }
  }
}

void check_train_options(const TrainArgs& a) {
  const io::AugmentRanges& g = a.ranges;
  if (a.train_data.empty()) throw UsageError("--train-data is required");
  if (g.min_area > g.max_area) throw UsageError("--crop-min-area is above --crop-max-area");
  if (g.min_aspect > g.max_aspect) throw UsageError("--crop-min-aspect is above --crop-max-aspect");
  if (g.min_saturation > g.max_saturation)
    throw UsageError("--min-saturation is above --max-saturation");
  loader_options(a, 1, 1);
  for (const float s : a.normalisation.stddev) {
    if (!(s > 0)) throw UsageError("--stddev must be above 0");
  }
}

io::LoaderOptions loader_options(const TrainArgs& a, int size, int classes) {
  io::LoaderOptions o;
  o.batch = a.batch;
  o.size = size;
  o.augment = a.augment == "recipe";
  o.shuffle = io::parse_shuffle(a.shuffle);
  o.shuffle_block = a.shuffle_block;
  o.shuffle_window = a.shuffle_window;
  o.seed = a.seed;
  o.classes = classes;
  o.prefetch = a.prefetch;
  o.prefetch_bytes = a.prefetch_bytes;
  o.max_side = a.records.max_side;
  o.ranges = a.ranges;
  o.normalisation = a.normalisation;
  o.keys = example_keys(a.records);
  apply(a.faults, o);
  apply(a.shard, o);
  return o;
}

}  // namespace mbconv::bin
