// Times the input pipeline a picture at a time: decoding alone, augmentation alone, and the whole
// way of a record, from reading it to the network's input.

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "bench/figures.h"
#include "bench/pictures.h"
#include "bin/cli.h"
#include "bin/options.h"
#include "io/augment.h"
#include "io/example.h"
#include "io/tfrecord.h"
#include "lib/parallel.h"

namespace mbconv::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Record = std::vector<std::byte>;

struct Args {
  std::string data, write, json;
  int resolution = 224, pictures = 128;
  double seconds = 5;
  bin::MachineOptions machine;
  bin::RecordOptions records;
};

// A file that is removed at the end.
class TemporaryFile {
 public:
  TemporaryFile()
      : path_(std::filesystem::temp_directory_path() /
              ("input_bench-" + std::to_string(getpid()) + ".tfrecord")) {}
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// What was measured of one kind of work, slice by slice.
struct Figures {
  std::vector<double> rates, cpu_ms;  // pictures a second; CPU time of a picture

  double rate() const { return median(rates); }
  double cpu() const { return median(cpu_ms); }
};

class InputBench {
 public:
  InputBench(const Args& args, const std::string& data, Isa isa)
      : args_(args), isa_(isa), workers_(args.machine.threads), set_(data) {
    count_ = static_cast<int>(std::min(set_.size(), static_cast<size_t>(args.pictures)));
    records_.resize(static_cast<size_t>(count_));
    decoded_.resize(records_.size());
    threads_.resize(static_cast<size_t>(args.machine.threads));
    for (Thread& thread : threads_) {
      thread.out.resize(size_t{3} * static_cast<size_t>(args.resolution * args.resolution));
    }
    workers_.run(count_, [this](int i, int) {
      const auto k = static_cast<size_t>(i);
      set_.read(number(i), records_[k]);
      decoded_[k] = io::decode_image(encoded(records_[k]), args_.records.max_side);
    });
  }

  int pictures() const { return count_; }
  double mean_bytes() const {
    return mean([](const Record& r) { return r.size(); }, records_);
  }
  double mean_pixels() const {
    return mean([](const io::Image& d) { return d.pixels.size() / 3; }, decoded_);
  }

  void run();
  Figures decode, augment, all;

 private:
  struct Thread {
    Record record;
    io::Image image;
    std::vector<float> out;
  };

  template <class Size, class T>
  static double mean(const Size& size, const std::vector<T>& values) {
    double sum = 0;
    for (const T& value : values) sum += static_cast<double>(size(value));
    return sum / static_cast<double>(values.size());
  }
  // The bench's pictures lie evenly spread over the set.
  size_t number(int i) const {
    return static_cast<size_t>(i) * set_.size() / static_cast<size_t>(count_);
  }
  io::Bytes encoded(const Record& record) const {
    return io::parse_labelled_image(record, bin::example_keys(args_.records)).encoded;
  }
  void augment_one(const io::Image& image, int i, int worker);
  template <class Body>
  void slice(double seconds, Figures& figures, const Body& body);

  const Args& args_;
  Isa isa_;
  Workers workers_;
  io::RecordSet set_;
  int count_;
  uint32_t epoch_ = 0;
  std::vector<Record> records_;
  std::vector<io::Image> decoded_;
  std::vector<Thread> threads_;
};

void InputBench::augment_one(const io::Image& image, int i, int worker) {
  Rng rng(1, epoch_, static_cast<uint64_t>(i), Purpose::augment);
  const io::AugmentDraw draw = io::draw_augmentation(image.width, image.height, {}, rng);
  io::augment(image, draw, args_.resolution, {}, threads_[static_cast<size_t>(worker)].out.data(),
              isa_);
}

// Runs body(picture, worker) over all pictures again and again.
template <class Body>
void InputBench::slice(double seconds, Figures& figures, const Body& body) {
  const double cpu = cpu_seconds();
  const auto start = Clock::now();
  double elapsed = 0;
  int done = 0;
  do {
    workers_.run(count_, body);
    ++epoch_;
    done += count_;
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (elapsed < seconds);
  figures.rates.push_back(done / elapsed);
  figures.cpu_ms.push_back(1e3 * (cpu_seconds() - cpu) / done);
}

void InputBench::run() {
  // The three take turns, as the machine's speed drifts.
  constexpr double kSlice = 0.25;
  const auto start = Clock::now();
  do {
    slice(kSlice, decode, [this](int i, int worker) {
      io::decode_image(encoded(records_[static_cast<size_t>(i)]), args_.records.max_side,
                       threads_[static_cast<size_t>(worker)].image);
    });
    slice(kSlice / 2, augment,
          [this](int i, int worker) { augment_one(decoded_[static_cast<size_t>(i)], i, worker); });
    slice(kSlice, all, [this](int i, int worker) {
      Thread& thread = threads_[static_cast<size_t>(worker)];
      set_.read(number(i), thread.record);
      io::decode_image(encoded(thread.record), args_.records.max_side, thread.image);
      augment_one(thread.image, i, worker);
    });
  } while (std::chrono::duration<double>(Clock::now() - start).count() < args_.seconds);
}

void print(const char* what, const Figures& f, int threads) {
  std::printf("%-26s %9.1f images/s %8.3f ms an image and thread %8.3f ms of CPU time\n", what,
              f.rate(), 1e3 * threads / f.rate(), f.cpu());
}

nlohmann::ordered_json json_of(const Args& args, const InputBench& bench, Isa isa) {
  return {
      {"decode_images_per_second", bench.decode.rate()},
      {"augment_images_per_second", bench.augment.rate()},
      {"images_per_second", bench.all.rate()},
      {"decode_cpu_ms", bench.decode.cpu()},
      {"augment_cpu_ms", bench.augment.cpu()},
      {"cpu_ms", bench.all.cpu()},
      {"pictures", bench.pictures()},
      {"mean_bytes", bench.mean_bytes()},
      {"mean_pixels", bench.mean_pixels()},
      {"resolution", args.resolution},
      {"threads", args.machine.threads},
      {"isa", name(isa)},
  };
}

int run(const Args& args) {
  const Isa isa = bin::resolve_isa(args.machine);
  const TemporaryFile temporary;
  std::string data = args.data;
  if (data.empty()) {
    data = args.write.empty() ? temporary.path() : args.write;
    write_natural_records(data, args.pictures);
  }
  if (!args.write.empty()) return 0;
  InputBench bench(args, data, isa);
  const int threads = args.machine.threads;
  std::printf("%d pictures, %.0f bytes and %.0f pixels in the mean, to %d; %s, %d threads\n",
              bench.pictures(), bench.mean_bytes(), bench.mean_pixels(), args.resolution,
              std::string(name(isa)).c_str(), threads);
  bench.run();
  print("decode", bench.decode, threads);
  print("augment", bench.augment, threads);
  print("read, decode and augment", bench.all, threads);
  if (!args.json.empty()) write_json(args.json, json_of(args, bench, isa));
  return 0;
}

}  // namespace
}  // namespace mbconv::bench

int main(int argc, char** argv) {
  using namespace mbconv;
  bench::Args args;
  bin::Options app("Times decoding and augmentation of training pictures.", "input_bench");
  const char* group = "Measurement";
  const bin::Option data =
      app.add("--data", args.data,
              "Records to read; else JPEGs of about 500 x 375 pixels are made from noise")
          .group(group);
  app.add("--write", args.write, "Write the pictures that are made to this file and stop")
      .excludes(data)
      .group(group);
  app.add("--pictures", args.pictures, "Pictures to make, or at most to take of the records")
      .between(1, 1e6)
      .show_default()
      .group(group);
  app.add("--resolution", args.resolution, "Of the network's input")
      .between(1, 4096)
      .show_default()
      .group(group);
  app.add("--seconds", args.seconds, "Time to measure for")
      .between(0, 1e6)
      .show_default()
      .group(group);
  app.add("--json", args.json, "File for the figures").group(group);
  bin::add_record_options(app, args.records);
  bin::add_machine_options(app, args.machine);
  return bin::run_program(app, argc, argv, [&] { return bench::run(args); });
}
