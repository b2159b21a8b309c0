// Makes and checks TFRecord files of pictures.

#include <vector>

#include "bin/cli.h"
#include "bin/records_commands.h"

int main(int argc, char** argv) {
  using namespace mbconv::bin;
  Options app("Makes and checks TFRecord files of tf.train.Example.", "records");
  const std::vector<Command> commands = {add_from_idx(app), add_from_folder(app), add_inspect(app),
                                         add_verify(app), add_show(app)};
  return run_program(app, argc, argv, [&] {
    for (const Command& command : commands) {
      if (command.app->command_given()) return command.run();
    }
    return 2;
  });
}
