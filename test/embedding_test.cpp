// The embedding sample of README.md, compiled and run as it stands there: test/readme.py compares.
#include <cstdio>
#include <fstream>
#include <iterator>

#include "io/augment.h"
#include "io/safetensors.h"
#include "lib/cpus.h"
#include "net/checkpoint.h"

using namespace mbconv;

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  // README sample begins
  Workers workers(available_threads());
  const TensorFile weights = io::read_safetensors(argv[1]);
  const net::CheckpointInfo info = net::checkpoint_info(weights).value();
  const net::NetworkConfig config = net::network_config(info.model);
  net::EfficientNet network(config, 1, net::Mode::inference, workers, select_isa());
  network.parameters().load(weights);

  std::ifstream file(argv[2], std::ios::binary);
  const std::string encoded(std::istreambuf_iterator<char>(file), {});
  const io::Image image = io::decode_image(std::as_bytes(std::span(encoded)));
  const int size = config.model.resolution;
  std::vector<float> input(static_cast<size_t>(size) * static_cast<size_t>(size) * 3);
  io::prepare_validation(image, io::validation_resize(size), size, info.normalisation,
                         input.data());
  network.infer(input.data());
  for (const float logit : network.logits(0)) std::printf("%g\n", logit);
  // README sample ends
}
