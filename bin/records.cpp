// Makes and checks TFRecord files of pictures.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>

#include "bin/cli.h"
#include "bin/options.h"
#include "bin/progress.h"
#include "io/decode.h"
#include "io/example.h"
#include "io/idx.h"
#include "io/record_set.h"
#include "io/shard_writer.h"
#include "io/tfrecord.h"

namespace mbconv::bin {
namespace {

namespace fs = std::filesystem;

struct OutputArgs {
  std::string out, name = "train";
  int shards = 1;
};

void add_output_options(CLI::App& app, OutputArgs& o) {
  app.add_option("--out", o.out, "Folder for the shards")->required()->group("Output");
  app.add_option("--name", o.name, "Shards are called NAME-00000-of-0000N.tfrecord")
      ->capture_default_str()
      ->group("Output");
  app.add_option("--shards", o.shards, "Number of files")
      ->check(between(1, 99999))
      ->capture_default_str()
      ->group("Output");
}

// The progress of a loop over `total` things, named by `what`; a line every tenth outside of
// terminals.
class Counter {
 public:
  Counter(std::string what, size_t total)
      : what_(std::move(what)), total_(static_cast<int64_t>(total)) {}
  void done() {
    ++done_;
    const bool line = done_ * 10 / total_ != (done_ - 1) * 10 / total_;
    progress_.update(done_, total_,
                     what_ + " " + std::to_string(done_) + "/" + std::to_string(total_), line);
  }

 private:
  std::string what_;
  int64_t total_, done_ = 0;
  Progress progress_;
};

struct IdxArgs {
  std::string images, labels;
  OutputArgs output;
};

int from_idx(const IdxArgs& a) {
  const io::IdxImages images = io::read_idx_images(a.images);
  const std::vector<uint8_t> labels = io::read_idx_labels(a.labels);
  require(static_cast<size_t>(images.count) == labels.size(), a.images, " has ", images.count,
          " pictures, ", a.labels, " has ", labels.size(), " labels");
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
  int max_side = 10000;
  OutputArgs output;
};

struct ClassFile {
  fs::path path;
  int label;
};

// The pictures below `folder`, one sub-folder a class in the order of their names. Writes the names
// to OUT/NAME-classes.txt.
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
  std::ifstream in(path, std::ios::binary);
  require(in.good(), path.string(), ": cannot open");
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

int from_folder(const FolderArgs& a) {
  std::vector<std::string> classes;
  const std::vector<ClassFile> files = list_classes(a, classes);
  io::ShardWriter writer(a.output.out, a.output.name, a.output.shards);
  {
    Counter counter("picture", files.size());
    for (const ClassFile& file : files) {
      const std::vector<std::byte> encoded = read_file(file.path);
      try {
        const io::Image image = io::decode_image(encoded, a.max_side);
        const bool png = encoded[0] == std::byte{0x89}, jpeg = encoded[0] == std::byte{0xff};
        writer.write({encoded, file.label, image.height, image.width, 3, "RGB",
                      png    ? "PNG"
                      : jpeg ? "JPEG"
                             : "",
                      classes[static_cast<size_t>(file.label)], file.path.filename().string()});
      } catch (const Error& e) {
        throw Error(file.path.string(), ": ", e.what());
      }
      counter.done();
    }
  }
  writer.close();
  const fs::path names = fs::path(a.output.out) / (a.output.name + "-classes.txt");
  std::ofstream out(names);
  for (const std::string& name : classes) out << name << '\n';
  out.close();
  require(out.good(), names.string(), ": cannot write");
  std::cout << "wrote " << files.size() << " records of " << classes.size() << " classes to "
            << a.output.shards << " files in " << a.output.out << ", class names to "
            << names.string() << '\n';
  return 0;
}

struct ReadArgs {
  std::string data;
  RecordOptions records;
};

std::string describe(const io::Feature& feature) {
  const size_t count = std::visit([](const auto& values) { return values.size(); }, feature);
  const char* const kinds[] = {"bytes", "floats", "integers"};
  return std::to_string(count) + " " + kinds[feature.index()];
}

int inspect(const ReadArgs& a) {
  const io::RecordSet records = open_records(a.data, a.records, io::OnDamage::stop);
  const io::ExampleKeys keys = example_keys(a.records);
  std::map<int64_t, int64_t> labels;
  std::map<std::pair<int, int>, int64_t> sizes;
  std::vector<std::byte> record;
  {
    Counter counter("record", records.size());
    for (size_t i = 0; i < records.size(); ++i, counter.done()) {
      records.read(i, record);
      try {
        const io::LabelledImage image = io::parse_labelled_image(record, keys);
        const io::ImageSize size = io::image_size(image.encoded);
        ++labels[image.label];
        ++sizes[{size.width, size.height}];
      } catch (const Error& e) {
        throw Error(records.describe(i), ": ", e.what());
      }
    }
  }
  std::cout << records.size() << " records in " << records.files()
            << " files\nkeys of the first record:\n";
  records.read(0, record);
  for (const auto& [key, feature] : io::parse_example(record))
    std::cout << "  " << key << ": " << describe(feature) << '\n';
  std::cout << labels.size() << " labels from " << labels.begin()->first << " to "
            << labels.rbegin()->first << ":\n";
  for (const auto& [label, count] : labels) std::cout << "  " << label << ": " << count << '\n';
  std::cout << sizes.size() << " picture sizes, the smallest " << sizes.begin()->first.first
            << " x " << sizes.begin()->first.second << ", the largest "
            << sizes.rbegin()->first.first << " x " << sizes.rbegin()->first.second << '\n';
  return 0;
}

int verify(const ReadArgs& a) {
  const io::ExampleKeys keys = example_keys(a.records);
  int64_t good = 0, bad = 0;
  std::vector<std::byte> record;
  const auto report = [&](const std::string& text) {
    std::cout << text << '\n';
    ++bad;
  };
  for (const std::string& path : io::match_files(a.data)) {
    try {
      const io::RecordFile file(path);
      Counter counter(path, file.size());
      for (size_t i = 0; i < file.size(); ++i, counter.done()) {
        try {
          file.read(i, record);
        } catch (const Error& e) {
          report(e.what());  // says where
          continue;
        }
        try {
          io::decode_image(io::parse_labelled_image(record, keys).encoded, a.records.max_side);
          ++good;
        } catch (const Error& e) {
          report(file.describe(i) + ": " + e.what());
        }
      }
    } catch (const Error& e) {
      report(e.what());
    }
  }
  std::cout << good << " good records, " << bad << " damaged\n";
  return bad == 0 ? 0 : 1;
}

void add_read_options(CLI::App& app, ReadArgs& a) {
  app.add_option("--data", a.data, "Glob of the TFRecord files, several by commas")
      ->required()
      ->group("Data");
  add_record_options(app, a.records);
}

}  // namespace
}  // namespace mbconv::bin

int main(int argc, char** argv) {
  using namespace mbconv::bin;
  CLI::App app("Makes and checks TFRecord files of tf.train.Example.", "records");
  app.require_subcommand(1);
  IdxArgs idx;
  CLI::App* from_idx_app =
      app.add_subcommand("from-idx", "From IDX files, as MNIST and Fashion-MNIST come");
  from_idx_app->add_option("--images", idx.images, "IDX file of the pictures, plain or gzip")
      ->required()
      ->group("Input");
  from_idx_app->add_option("--labels", idx.labels, "IDX file of the labels, plain or gzip")
      ->required()
      ->group("Input");
  add_output_options(*from_idx_app, idx.output);
  FolderArgs folder;
  CLI::App* from_folder_app =
      app.add_subcommand("from-folder", "From pictures in a folder with one sub-folder a class");
  from_folder_app->add_option("--folder", folder.folder, "The folder")->required()->group("Input");
  from_folder_app
      ->add_option("--max-side", folder.max_side, "Refuse pictures with a longer side, in pixels")
      ->check(between(1, 65535))
      ->capture_default_str()
      ->group("Input");
  add_output_options(*from_folder_app, folder.output);
  ReadArgs read;
  CLI::App* inspect_app =
      app.add_subcommand("inspect", "What files hold: keys, labels, picture sizes");
  add_read_options(*inspect_app, read);
  CLI::App* verify_app = app.add_subcommand(
      "verify", "Checks every checksum, Example and picture; exit status 1 on damage");
  add_read_options(*verify_app, read);
  return run_program(app, argc, argv, [&] {
    if (*from_idx_app) return from_idx(idx);
    if (*from_folder_app) return from_folder(folder);
    if (*inspect_app) return inspect(read);
    return verify(read);
  });
}
