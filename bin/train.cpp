// Trains an EfficientNet on TFRecord files.

#include <iostream>

#include "bin/cli.h"
#include "bin/train_run.h"
#include "io/safetensors.h"

namespace mbconv::bin {
namespace {

int train(Options& app, TrainArgs& args) {
  RunFolder folder(args.out, args.resume);
  if (args.resume) {
    if (!args.init.empty()) throw UsageError("--init and --resume exclude each other");
    try {
      take_options_of_run(app, folder.read_config());
    } catch (const Error& e) {
      throw Error("cannot resume ", args.out, ": ", e.what());
    }
    args.init.clear();  // it stays among the printed options
  }
  check_train_options(args);
  const Isa isa = resolve_isa(args.machine);
  const std::string source = args.resume ? folder.last() : args.init;
  std::optional<TensorFile> weights;
  if (!source.empty()) weights = io::read_safetensors(source);
  const net::NetworkConfig config =
      resolve_model(args.model, weights ? &*weights : nullptr, source);
  read_class_names(args.records, config.model.classes);

  show_resolved(app, config.model, isa);
  std::cout << "mbconv train " << MBCONV_VERSION << '\n';
  print_options(std::cout, app);
  TrainRun run(args, config, folder, isa);
  run.load(weights ? &*weights : nullptr);
  weights.reset();
  run.print(std::cout);
  folder.create();
  folder.write_config(config_json(app, config.model, isa));
  catch_interrupts();
  return run.run();
}

}  // namespace
}  // namespace mbconv::bin

int main(int argc, char** argv) {
  mbconv::bin::TrainArgs args;
  mbconv::bin::Options app("Trains an EfficientNet on TFRecord files of tf.train.Example.",
                           "train");
  add_train_options(app, args);
  return mbconv::bin::run_program(app, argc, argv, [&] { return mbconv::bin::train(app, args); });
}
