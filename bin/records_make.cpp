// Records from IDX files and from folders of pictures.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>

#include "bin/cli.h"
#include "bin/options.h"
#include "bin/progress.h"
#include "bin/records_commands.h"
#include "io/atomic_file.h"
#include "io/decode.h"
#include "io/idx.h"
#include "io/resize.h"
#include "io/shard_writer.h"
#include "lib/parallel.h"

namespace mbconv::bin {
namespace {

namespace fs = std::filesystem;

struct OutputArgs {
  std::string out, name = "train";
  int shards = 1;
};

void add_output_options(Options& app, OutputArgs& o) {
  app.add("--out", o.out, "Folder for the shards").required().group("Output");
  app.add("--name", o.name, "Shards are called NAME-00000-of-0000N.tfrecord")
      .show_default()
      .group("Output");
  app.add("--shards", o.shards, "Number of files").whole(1, 99999).show_default().group("Output");
}

// Throws UsageError where a file would hold no record.
void check_shards(const OutputArgs& o, size_t records) {
  if (static_cast<size_t>(o.shards) <= records) return;
  throw UsageError("--shards: " + std::to_string(o.shards) + " files for " +
                   std::to_string(records) + " records; expected at most one for each");
}

struct IdxArgs {
  std::string images, labels;
  OutputArgs output;
};

int from_idx(const IdxArgs& a) {
  const io::IdxImages images = io::read_idx_images(a.images);
  const std::vector<uint8_t> labels = io::read_idx_labels(a.labels);
  require(static_cast<size_t>(images.count) == labels.size(), a.images, " has ", images.count,
          " pictures, ", a.labels, " has ", labels.size(), " labels");
  check_shards(a.output, labels.size());
  io::ShardWriter writer(a.output.out, a.output.name, a.output.shards);
  const size_t size = static_cast<size_t>(images.height) * static_cast<size_t>(images.width);
  {
    Counter counter("picture", labels.size());
    for (size_t i = 0; i < labels.size(); ++i) {
      const std::span<const uint8_t> pixels(images.pixels.data() + i * size, size);
      const std::vector<std::byte> png = io::encode_png(images.width, images.height, 1, pixels);
      writer.write({png, labels[i], images.height, images.width, 1, "grayscale", "PNG", "", ""});
      counter.done();
    }
  }
  writer.close();
  std::cout << "wrote " << labels.size() << " records to " << a.output.shards << " files in "
            << a.output.out << '\n';
  return 0;
}

struct FolderArgs {
  std::string folder;
  int max_side = 10000, resize = 0, quality = 95;
  MachineOptions machine;
  OutputArgs output;
};

struct ClassFile {
  fs::path path;
  int label;
};

// The pictures below `folder`, one sub-folder a class in the order of their names.
std::vector<ClassFile> list_classes(const FolderArgs& a, std::vector<std::string>& classes) {
  require(fs::is_directory(a.folder), a.folder, " is not a folder");
  for (const auto& entry : fs::directory_iterator(a.folder)) {
    if (entry.is_directory()) classes.push_back(entry.path().filename().string());
  }
  require(!classes.empty(), a.folder, " has no sub-folders: one for each class is expected");
  std::sort(classes.begin(), classes.end());
  std::vector<ClassFile> files;
  for (size_t label = 0; label < classes.size(); ++label) {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(fs::path(a.folder) / classes[label])) {
      if (entry.is_regular_file()) paths.push_back(entry.path());
    }
    require(!paths.empty(), "the class folder ", (fs::path(a.folder) / classes[label]).string(),
            " is empty");
    std::sort(paths.begin(), paths.end());
    for (const fs::path& path : paths) files.push_back({path, static_cast<int>(label)});
  }
  return files;
}

std::vector<std::byte> read_file(const fs::path& path) {
  const io::InputFile file(path.string());
  std::vector<std::byte> bytes(file.size());
  try {
    file.read_at(0, bytes);
  } catch (const Error& e) {
    throw Error(path.string(), ": ", e.what());
  }
  return bytes;
}

// A picture as it goes into its record.
struct Prepared {
  std::vector<std::byte> encoded;
  int height = 0, width = 0;
  std::string format;
};

// Checks that the picture can be decoded, and makes it smaller if told to: as JPEG, or as PNG what
// was one.
Prepared prepare(const ClassFile& file, const FolderArgs& a) {
  Prepared out;
  out.encoded = read_file(file.path);
  try {
    io::Image image = io::decode_image(out.encoded, a.max_side);
    if (a.resize > 0 && std::min(image.width, image.height) > a.resize) {
      image = io::shrink_to(image, a.resize);
      const bool png = io::image_format(out.encoded) == "PNG";
      out.encoded = png ? io::encode_png(image) : io::encode_jpeg(image, a.quality);
    }
    out.height = image.height;
    out.width = image.width;
  } catch (const Error& e) {
    throw Error(file.path.string(), ": ", e.what());
  }
  out.format = io::image_format(out.encoded);
  return out;
}

// Prepares groups of pictures on all threads and writes them in order.
void write_pictures(const std::vector<ClassFile>& files, const std::vector<std::string>& classes,
                    const FolderArgs& a, io::ShardWriter& writer) {
  Workers workers(a.machine.threads);
  const size_t group = 16 * static_cast<size_t>(workers.threads());
  Counter counter("picture", files.size());
  for (size_t begin = 0; begin < files.size(); begin += group) {
    std::vector<Prepared> prepared(std::min(group, files.size() - begin));
    workers.run(static_cast<int>(prepared.size()), [&](int item, int) {
      const auto i = static_cast<size_t>(item);
      prepared[i] = prepare(files[begin + i], a);
    });
    for (size_t i = 0; i < prepared.size(); ++i, counter.done()) {
      const ClassFile& file = files[begin + i];
      const Prepared& p = prepared[i];
      writer.write({p.encoded, file.label, p.height, p.width, 3, "RGB", p.format,
                    classes[static_cast<size_t>(file.label)], file.path.filename().string()});
    }
  }
}

int from_folder(const FolderArgs& a) {
  std::vector<std::string> classes;
  const std::vector<ClassFile> files = list_classes(a, classes);
  check_shards(a.output, files.size());
  io::ShardWriter writer(a.output.out, a.output.name, a.output.shards);
  write_pictures(files, classes, a, writer);
  writer.close();
  const fs::path names = fs::path(a.output.out) / (a.output.name + "-classes.txt");
  std::string text;
  for (const std::string& name : classes) text += name + "\n";
  const std::span<const std::byte> bytes = std::as_bytes(std::span(text));
  io::write_atomically(names.string(), std::span(&bytes, 1));
  std::cout << "wrote " << files.size() << " records of " << classes.size() << " classes to "
            << a.output.shards << " files in " << a.output.out << ", class names to "
            << names.string() << '\n';
  return 0;
}

}  // namespace

Command add_from_idx(Options& records) {
  const auto a = std::make_shared<IdxArgs>();
  Options& app = records.add_command("from-idx", "From IDX files, as MNIST and Fashion-MNIST come");
  app.add("--images", a->images, "IDX file of the pictures, plain or gzip")
      .required()
      .group("Input");
  app.add("--labels", a->labels, "IDX file of the labels, plain or gzip").required().group("Input");
  add_output_options(app, a->output);
  return {&app, [a] { return from_idx(*a); }};
}

Command add_from_folder(Options& records) {
  const auto a = std::make_shared<FolderArgs>();
  Options& app =
      records.add_command("from-folder", "From pictures in a folder with one sub-folder a class");
  app.add("--folder", a->folder, "The folder").required().group("Input");
  app.add("--max-side", a->max_side, "Refuse pictures with a longer side, in pixels")
      .whole(1, 65535)
      .show_default()
      .group("Input");
  app.add("--resize", a->resize,
          "Make pictures smaller whose shorter side is longer than this, in pixels; 0: keep "
          "all files as they are")
      .whole(0, 65535)
      .show_default()
      .group("Output");
  app.add("--quality", a->quality, "Of JPEGs that were made smaller")
      .whole(1, 100)
      .show_default()
      .group("Output");
  add_output_options(app, a->output);
  add_threads_option(app, a->machine);
  return {&app, [a] { return from_folder(*a); }};
}

}  // namespace mbconv::bin
