#include "net/efficientnet.h"

#include <algorithm>

#include "lib/error.h"

namespace mbconv::net {
namespace {

std::vector<std::unique_ptr<Mbconv>> make_blocks(const NetworkConfig& config,
                                                 Parameters& parameters) {
  std::vector<std::unique_ptr<Mbconv>> blocks;
  for (const BlockConfig& block : config.blocks) {
    blocks.push_back(std::make_unique<Mbconv>(block, config.model.activation, parameters));
  }
  return blocks;
}

int forward_passes(const NetworkConfig& config) {
  int passes = 3;  // stem, head convolution, the rest of the head
  for (const BlockConfig& block : config.blocks) passes += block.expand ? 3 : 2;
  return passes;
}

int checked(int batch) {
  require(batch >= 1, "the batch size must be at least 1, got ", batch);
  return batch;
}

}  // namespace

EfficientNet::EfficientNet(const NetworkConfig& config, int batch, Mode mode, Workers& workers,
                           Isa isa)
    : config_(config),
      stem_(config_, parameters_),
      blocks_(make_blocks(config_, parameters_)),
      head_(config_, parameters_),
      plan_(checked(batch), forward_passes(config_), mode == Mode::training),
      context_{isa, &workers, nullptr, 0} {
  parameters_.allocate(plan_.training());
  stem_.plan(plan_);
  size_t scratch = stem_.scratch();
  Output* input = &stem_.output();
  for (const auto& block : blocks_) {
    block->plan(plan_, *input);
    scratch = std::max(scratch, block->scratch());
    input = &block->output();
  }
  head_.plan(plan_, *input);
  scratch = std::max(scratch, head_.scratch());
  context_.scratch_floats = (scratch + kLane - 1) / kLane * kLane;
  plan_.add("scratch", context_.scratch_floats * static_cast<size_t>(workers.threads()), 0,
            plan_.end(), context_.scratch);
  plan_.allocate();
  context_.profile = &plan_.profile();
  stem_.append_folded(folded_weights_);
  for (const auto& block : blocks_) block->append_folded(folded_weights_);
  head_.append_folded(folded_weights_);
  if (!plan_.training()) return;
  for (const auto& block : blocks_) block->append_transposes(transposes_);
  head_.append_transposes(transposes_);
  loss_cost_ = profile().add({"loss", "loss", 0, 0, batch, 1.0 / batch});
  int largest = 0, all = 0;
  for (const Transpose& t : transposes_) {
    const int size = t.wt.k * t.wt.width(t.panel);
    largest = std::max(largest, size);
    all += size;
  }
  transpose_cost_ =
      profile().add({"transposes", "transposes", 0, 0, static_cast<int>(transposes_.size()),
                     static_cast<double>(largest) / all});
}

void EfficientNet::infer(const float* images) {
  fold_weights();
  ops::Context context = context_;
  if (plan_.training()) context.profile = nullptr;
  stem_.infer(context, images);
  for (const auto& block : blocks_) block->infer(context);
  head_.infer(context);
}

void EfficientNet::forward(const float* images, uint64_t seed, int64_t step) {
  require(plan_.training(), "forward() needs a network in Mode::training");
  folded_ = false;
  stem_.forward(context_, images);
  for (const auto& block : blocks_) block->forward(context_);
  head_.forward(context_, {seed, step});
  parameters_.count_batch();
}

BatchResult EfficientNet::loss(std::span<const int32_t> labels, float smoothing) {
  return head_.loss(context_, labels, smoothing, false);
}

BatchResult EfficientNet::backward(const float* images, std::span<const int32_t> labels,
                                   float smoothing) {
  require(plan_.training(), "backward() needs a network in Mode::training");
  folded_ = false;
  BatchResult result;
  {
    const Profile::Scope scope(context_.profile, loss_cost_);
    result = head_.loss(context_, labels, smoothing, true);
  }
  transpose_weights();
  head_.backward(context_);
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block)
    (*block)->backward(context_);
  stem_.backward(context_, images);
  return result;
}

std::span<float> EfficientNet::idle_memory() const {
  const Arena::Id id = plan_.largest();
  return {memory().data<float>(id), memory().bytes(id) / sizeof(float)};
}

void EfficientNet::fold_weights() {
  if (folded_) return;
  context_.workers->run(static_cast<int>(folded_weights_.size()),
                        [&](int i, int) { folded_weights_[static_cast<size_t>(i)]->fold(); });
  folded_ = true;
}

void EfficientNet::transpose_weights() {
  const Profile::Scope scope(context_.profile, transpose_cost_);
  context_.workers->run(static_cast<int>(transposes_.size()), [&](int i, int) {
    const Transpose& t = transposes_[static_cast<size_t>(i)];
    ops::transpose(t.w, t.wt, t.panel);
  });
}

}  // namespace mbconv::net
