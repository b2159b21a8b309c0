#include "bin/run_folder.h"

#include <algorithm>
#include <cstdio>
#include <sstream>

#include "bin/bad_list.h"
#include "bin/cli.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "lib/error.h"

namespace mbconv::bin {
namespace {

namespace fs = std::filesystem;

constexpr const char *kConfig = "config.json", *kLog = "log.csv", *kLast = "last.safetensors",
                     *kState = "last.state.safetensors", *kNewState = "last.state.new.safetensors",
                     *kBest = "best.safetensors";
constexpr const char* kHeader =
    "step,epoch,split,loss,cross_entropy,lr,top1,top5,images_per_second,seconds,"
    "input_wait,bad_records,bad_list";

void write_text(const fs::path& path, const std::string& text) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(text));
  io::write_atomically(path.string(), std::span(&bytes, 1));
}

std::string format(const LogRow& r) {
  // The best top-1 so far is read back from here: exact.
  const std::string top1 = exact_text(r.top1), top5 = exact_text(r.top5);
  char text[512];
  std::snprintf(text, sizeof text, "%ld,%ld,%s,%.9g,%.9g,%.9g,%s,%s,%.2f,%.3f,%.4f,%ld,", r.step,
                r.epoch, r.split.c_str(), r.loss, r.cross_entropy, r.lr, top1.c_str(), top5.c_str(),
                r.images_per_second, r.seconds, r.input_wait, r.bad_records);
  return text + io::csv_field(r.bad_list);
}

// The log without rows after `step`, and what its validations came to.
struct KeptRows {
  std::string text;
  double best_top1 = -1;
  int64_t last_validation = -1;
};

KeptRows kept_rows(const fs::path& path, int64_t step) {
  std::ifstream in(path);
  KeptRows kept;
  kept.text.append(kHeader).append("\n");
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) {
    LogRow row{};
    char split[16] = "";
    const int read =
        std::sscanf(line.c_str(), "%ld,%ld,%15[a-z],%lf,%lf,%lf,%lf", &row.step, &row.epoch, split,
                    &row.loss, &row.cross_entropy, &row.lr, &row.top1);
    if (read != 7 || row.step > step) continue;
    if (std::string(split) == "val") {
      kept.best_top1 = std::max(kept.best_top1, row.top1);
      kept.last_validation = row.step;
    }
    kept.text += line + "\n";
  }
  return kept;
}

void check_key(const TensorFile& state, const std::string& name, const std::string& now) {
  const auto entry = state.metadata.find(name);
  require(entry == state.metadata.end() || entry->second == now, "the run was started with ", name,
          " ", entry == state.metadata.end() ? "" : entry->second, ", this is ", now,
          ": resuming would not go on with the same run");
}

// A state of an older version, which knew no bad records, has whole batches up to `step`.
DataPosition read_position(const TensorFile& state, int64_t step, int64_t batch) {
  DataPosition position{std::max<int64_t>(step - 1, 0) * batch, step * batch, {}};
  const auto first = state.metadata.find("first_sample");
  if (first != state.metadata.end()) position.first_sample = std::stoll(first->second);
  const auto next = state.metadata.find("next_sample");
  if (next != state.metadata.end()) position.next_sample = std::stoll(next->second);
  const auto bad = state.metadata.find("bad_records");
  if (bad != state.metadata.end()) position.bad = split_numbers(bad->second);
  return position;
}

}  // namespace

RunFolder::RunFolder(fs::path path, bool resume) : path_(std::move(path)) {
  if (resume) {
    require(fs::exists(file(kLast)), "cannot resume: there is no ", file(kLast).string());
    return;
  }
  // A run that ended before its first checkpoint leaves nothing to keep.
  for (const char* name : {kLast, kState, kBest}) {
    require(!fs::exists(file(name)), path_.string(), " already holds a run (", name,
            "); give --resume to go on with it, or another --out");
  }
}

void RunFolder::create() {
  std::error_code error;
  fs::create_directories(path_, error);
  require(!error, "cannot create the folder ", path_.string(), ": ", error.message());
}

void RunFolder::write_config(const std::string& json) {
  write_text(file(kConfig), json);
}

std::string RunFolder::read_config() const {
  std::ifstream in(file(kConfig));
  require(in.good(), "cannot read ", file(kConfig).string());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string RunFolder::last() const {
  return file(kLast).string();
}

int64_t RunFolder::restore(net::EfficientNet& network, const TensorFile& weights, const RunKey& key,
                           DataPosition& position) {
  // A crash may have come between writing the weights and putting their state in place.
  if (fs::exists(file(kNewState))) {
    const TensorFile fresh = io::read_safetensors(file(kNewState).string());
    if (fresh.metadata.at("step") == weights.metadata.at("step"))
      fs::rename(file(kNewState), file(kState));
  }
  const TensorFile state = io::read_safetensors(file(kState).string());
  check_key(state, "batch", std::to_string(key.batch));
  check_key(state, "seed", std::to_string(key.seed));
  check_key(state, "records", std::to_string(key.records));
  try {
    net::restore(network, weights, state);
  } catch (const Error& e) {
    throw Error(file(kLast).string(), " and ", kState, ": ", e.what());
  }
  const int64_t step = net::checkpoint_info(weights)->step;
  position = read_position(state, step, key.batch);
  return step;
}

void RunFolder::open_logs(int64_t step) {
  const KeptRows kept = kept_rows(file(kLog), step);
  best_top1_ = kept.best_top1;
  last_validation_ = kept.last_validation;
  write_text(file(kLog), kept.text);
  csv_.open(file(kLog), std::ios::app);
  require(csv_.good(), "cannot write ", file(kLog).string());
  events_ = std::make_unique<io::EventWriter>(path_.string(), step);
}

void RunFolder::log(const LogRow& row) {
  csv_ << format(row) << std::endl;
  require(csv_.good(), "cannot write ", file(kLog).string(), ": is the disk full?");
  if (row.split == "val") last_validation_ = row.step;
  const std::string prefix = row.split + "/";
  events_->scalar(prefix + "loss", row.step, row.loss);
  events_->scalar(prefix + "cross_entropy", row.step, row.cross_entropy);
  events_->scalar(prefix + "top1", row.step, row.top1);
  events_->scalar(prefix + "top5", row.step, row.top5);
  events_->scalar(prefix + "images_per_second", row.step, row.images_per_second);
  events_->scalar(prefix + "input_wait", row.step, row.input_wait);
  events_->scalar(prefix + "bad_records", row.step, static_cast<double>(row.bad_records));
  if (row.split == "train") events_->scalar("train/learning_rate", row.step, row.lr);
  events_->flush();
}

void RunFolder::save_last(const net::EfficientNet& network, const net::CheckpointInfo& info,
                          const RunKey& key, const DataPosition& position) {
  const std::string bad = network.parameters().not_finite();
  require(bad.empty(), "'", bad, "' is no longer finite after step ", info.step,
          "; a lower learning rate or a longer warm-up may help");
  TensorFile state = net::make_state(network, info.step);
  state.metadata["batch"] = std::to_string(key.batch);
  state.metadata["seed"] = std::to_string(key.seed);
  state.metadata["records"] = std::to_string(key.records);
  state.metadata["first_sample"] = std::to_string(position.first_sample);
  state.metadata["next_sample"] = std::to_string(position.next_sample);
  state.metadata["bad_records"] = join_numbers(position.bad);
  // The new state waits under another name until its weights are in place: whatever happens in
  // between, a matching pair is there.
  io::write_safetensors(file(kNewState).string(), state);
  try {
    io::write_safetensors(file(kLast).string(), net::make_checkpoint(network, info));
  } catch (const Error&) {
    fs::remove(file(kNewState));
    throw;
  }
  fs::rename(file(kNewState), file(kState));
}

bool RunFolder::save_best(const net::EfficientNet& network, const net::CheckpointInfo& info,
                          const Validation& validation) {
  if (validation.top1 <= best_top1_) return false;
  best_top1_ = validation.top1;
  io::write_safetensors(file(kBest).string(), net::make_checkpoint(network, info));
  return true;
}

}  // namespace mbconv::bin
