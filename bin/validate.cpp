#include "bin/validate.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "bin/options.h"

namespace mbconv::bin {
namespace {

// As the network counts: a label is right if its logit is the first of the largest.
void count_classes(const net::EfficientNet& network, std::span<const int32_t> labels,
                   std::vector<Validation::Class>& classes) {
  for (size_t i = 0; i < labels.size(); ++i) {
    const std::vector<float> logits = network.logits(static_cast<int>(i));
    const auto label = static_cast<size_t>(labels[i]);
    const auto largest = std::max_element(logits.begin(), logits.end()) - logits.begin();
    ++classes[label].images;
    classes[label].top1 += static_cast<size_t>(largest) == label ? 1 : 0;
  }
}

}  // namespace

Validation validate(net::EfficientNet& network, const io::RecordSet& records, Workers& workers,
                    io::LoaderOptions options, const std::function<bool(int64_t)>& go_on) {
  const auto start = std::chrono::steady_clock::now();
  options.training = false;
  options.batch = network.batch();
  options.size = network.config().model.resolution;
  options.classes = network.config().model.classes;
  options.first_sample = 0;
  const auto make = [&] { return io::Loader(records, workers, options); };
  io::Loader loader = with_memory_for(options.batch, options.size, make);
  // Those of the shard, bad ones included.
  const int64_t samples = io::samples_of_shard(records.size(), options);
  // The network takes whole batches: a short one is filled up with empty pictures.
  std::vector<float> last;
  Validation result;
  result.classes.resize(static_cast<size_t>(options.classes));
  for (io::Batch batch = loader.next(); batch.count > 0; batch = loader.next()) {
    const float* images = batch.images.data();
    if (batch.count < network.batch()) {
      last.assign(batch.images.size() / static_cast<size_t>(batch.count) *
                      static_cast<size_t>(network.batch()),
                  0.0f);
      std::copy(batch.images.begin(), batch.images.end(), last.begin());
      images = last.data();
    }
    network.infer(images);
    const net::BatchResult r = network.loss(batch.labels);
    result.top1 += r.top1;
    result.top5 += r.top5;
    result.loss += r.cross_entropy * batch.count;
    result.images += batch.count;
    count_classes(network, batch.labels, result.classes);
    if (!go_on(result.images)) {
      result.stopped = batch.next_sample < samples;
      break;
    }
  }
  result.input_wait = loader.take_wait_seconds();
  result.bad = loader.take_bad_records();
  const double images = static_cast<double>(result.images);
  result.top1 /= images;
  result.top5 /= images;
  result.loss /= images;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace mbconv::bin
