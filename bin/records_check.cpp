// What record files hold, and whether it is whole.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "bin/cli.h"
#include "bin/options.h"
#include "bin/progress.h"
#include "bin/records_commands.h"
#include "io/atomic_file.h"
#include "io/bad_record.h"
#include "io/decode.h"
#include "io/example.h"
#include "lib/parallel.h"

namespace mbconv::bin {
namespace {

namespace fs = std::filesystem;

void add_data_option(Options& app, std::string& data) {
  app.add("--data", data, "Glob of the TFRecord files, several by commas").required().group("Data");
}

void write_bytes(const std::string& path, std::span<const std::byte> bytes) {
  io::write_atomically(path, std::span(&bytes, 1));
}

struct InspectArgs {
  std::string data, samples_out = "samples";
  int samples = 0;
  RecordOptions records;
};

// What all records with one key have there.
struct KeyUse {
  int64_t records = 0;
  std::map<std::string, int64_t> kinds;  // "1 bytes", "1 integers", ...
};

// Counts over the records of a set.
struct Contents {
  int64_t readable = 0, bytes = 0;
  std::vector<std::string> bad;
  std::map<std::string, KeyUse> keys;
  std::map<int64_t, int64_t> labels;
  std::map<std::string, int64_t> formats;
  std::vector<io::ImageSize> sizes;
};

std::string kind_of(const io::Feature& feature) {
  const size_t count = std::visit([](const auto& values) { return values.size(); }, feature);
  const char* const kinds[] = {"bytes", "floats", "integers"};
  return std::to_string(count) + " " + kinds[feature.index()];
}

void count_record(io::Bytes record, const io::ExampleKeys& keys, Contents& contents) {
  constexpr size_t kMostKinds = 5;
  const io::LabelledImage image = io::parse_labelled_image(record, keys);
  const io::ImageSize size = io::image_size(image.encoded);
  for (const auto& [key, feature] : io::parse_example(record)) {
    KeyUse& use = contents.keys[key];
    ++use.records;
    const std::string kind = kind_of(feature);
    const bool known = use.kinds.count(kind) > 0 || use.kinds.size() < kMostKinds;
    ++use.kinds[known ? kind : "others"];
  }
  ++contents.labels[image.label];
  const std::string format(io::image_format(image.encoded));
  ++contents.formats[format.empty() ? "unknown" : format];
  contents.sizes.push_back(size);
  contents.bytes += static_cast<int64_t>(record.size());
  ++contents.readable;
}

void print_sizes(std::vector<io::ImageSize> sizes) {
  const auto area = [](const io::ImageSize& s) { return int64_t{s.width} * s.height; };
  std::sort(sizes.begin(), sizes.end(), [&](const io::ImageSize& a, const io::ImageSize& b) {
    return std::pair(area(a), a.width) < std::pair(area(b), b.width);
  });
  std::cout << "picture sizes:\n";
  const std::pair<const char*, size_t> places[] = {{"smallest", 0},
                                                   {"a tenth below", sizes.size() / 10},
                                                   {"median", sizes.size() / 2},
                                                   {"a tenth above", sizes.size() * 9 / 10},
                                                   {"largest", sizes.size() - 1}};
  for (const auto& [name, place] : places) {
    std::cout << "  " << name << ": " << sizes[place].width << " x " << sizes[place].height << '\n';
  }
}

void print_contents(const Contents& c, const std::vector<std::string>& names) {
  std::cout << "keys:\n";
  for (const auto& [key, use] : c.keys) {
    std::cout << "  " << key << ": ";
    const char* separator = "";
    for (const auto& [kind, count] : use.kinds) {
      std::cout << separator << kind;
      if (use.kinds.size() > 1 || use.records < c.readable) std::cout << " in " << count;
      separator = ", ";
    }
    std::cout << '\n';
  }
  std::cout << c.labels.size() << " labels from " << c.labels.begin()->first << " to "
            << c.labels.rbegin()->first << ":\n";
  for (const auto& [label, count] : c.labels)
    std::cout << "  " << class_label(names, label) << ": " << count << '\n';
  std::cout << "formats:";
  for (const auto& [format, count] : c.formats) std::cout << ' ' << format << ' ' << count;
  std::cout << "; " << c.bytes / c.readable << " bytes a record\n";
  print_sizes(c.sizes);
}

// A record's picture as PNG, and its label. Throws Error.
std::pair<std::vector<std::byte>, int64_t> read_picture(const io::RecordSet& records, size_t number,
                                                        const InspectArgs& a) {
  std::vector<std::byte> record;
  records.read(number, record);
  const io::LabelledImage image = io::parse_labelled_image(record, example_keys(a.records));
  return {io::encode_png(io::decode_image(image.encoded, a.records.max_side)), image.label};
}

// Writes `count` pictures spread over the records as FOLDER/record-NUMBER-label-LABEL.png.
void write_samples(const io::RecordSet& records, const InspectArgs& a) {
  std::error_code error;
  fs::create_directories(a.samples_out, error);
  require(!error, "cannot create the folder ", a.samples_out, ": ", error.message());
  const auto count = std::min(static_cast<size_t>(a.samples), records.size());
  size_t written = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t number = i * records.size() / count;
    std::pair<std::vector<std::byte>, int64_t> picture;
    try {
      picture = read_picture(records, number, a);
    } catch (const io::DamagedRecord&) {
      continue;  // it was counted above
    } catch (const Error& e) {
      std::cout << "no sample of " << records.describe(number) << ": " << e.what() << '\n';
      continue;
    }
    const auto& [png, label] = picture;
    const std::string name =
        "record-" + std::to_string(number) + "-label-" + std::to_string(label) + ".png";
    write_bytes((fs::path(a.samples_out) / name).string(), png);
    ++written;
  }
  std::cout << "wrote " << written << " pictures to " << a.samples_out << '\n';
}

int inspect(const InspectArgs& a) {
  const std::vector<std::string> names = read_class_names(a.records, 0);
  const io::RecordSet records = open_records(a.data, a.records, io::OnDamage::resynchronise);
  const io::ExampleKeys keys = example_keys(a.records);
  Contents contents;
  std::vector<std::byte> record;
  {
    Counter counter("record", records.size());
    for (size_t i = 0; i < records.size(); ++i, counter.done()) {
      try {
        records.read(i, record);
        count_record(record, keys, contents);
      } catch (const io::DamagedRecord& e) {
        contents.bad.push_back(e.what());
      } catch (const Error& e) {
        contents.bad.push_back(records.describe(i) + ": " + e.what());
      }
    }
  }
  if (contents.readable == 0) throw Error(contents.bad.front());
  std::cout << records.size() << " records in " << records.files() << " files\n";
  if (!contents.bad.empty())
    std::cout << contents.bad.size()
              << " of them bad (see records verify), the first: " << contents.bad.front() << '\n';
  print_contents(contents, names);
  const int64_t largest = contents.labels.rbegin()->first;
  require(names.empty() || largest < static_cast<int64_t>(names.size()), a.records.class_names,
          ": has ", names.size(), " class names, the largest label is ", largest);
  if (a.samples > 0) write_samples(records, a);
  return 0;
}

struct VerifyArgs {
  std::string data, json;
  int classes = 0;
  RecordOptions records;
  MachineOptions machine;
};

// What is wrong with a record; none if nothing is.
std::optional<io::Fault> check_record(const io::RecordFile& file, size_t number,
                                      const VerifyArgs& a) {
  thread_local std::vector<std::byte> record;
  try {
    file.read(number, record);
    const io::LabelledImage image = io::parse_labelled_image(record, example_keys(a.records));
    require(a.classes == 0 || image.label < a.classes, "the label ", image.label,
            " lies outside [0, ", a.classes, ")");
    io::decode_image(image.encoded, a.records.max_side);
  } catch (const io::DamagedRecord& e) {
    return e.fault();
  } catch (const Error& e) {
    return io::Fault{e.what(), {}};
  }
  return {};
}

nlohmann::ordered_json json_of(const io::RecordFile& file, size_t record, const io::Fault& fault) {
  nlohmann::ordered_json json = {{"file", file.path()},
                                 {"record", record},
                                 {"offset", file.location(record).offset},
                                 {"reason", fault.reason}};
  if (fault.crc) {
    json["expected_crc"] = fault.crc->expected;
    json["found_crc"] = fault.crc->found;
  }
  return json;
}

// Checks a file, prints each damaged record and adds it to `damaged`; returns the number of
// records.
size_t verify_file(const std::string& path, const VerifyArgs& a, Workers& workers,
                   nlohmann::ordered_json& damaged) {
  constexpr size_t kGroup = 256;
  // No cache: the headers themselves are checked.
  const io::RecordFile file(path, {io::OnDamage::resynchronise, nullptr});
  Counter counter("record of " + path, file.size());
  for (size_t begin = 0; begin < file.size(); begin += kGroup) {
    std::vector<std::optional<io::Fault>> faults(std::min(kGroup, file.size() - begin));
    workers.run(static_cast<int>(faults.size()), [&](int item, int) {
      const auto i = static_cast<size_t>(item);
      faults[i] = check_record(file, begin + i, a);
    });
    for (size_t i = 0; i < faults.size(); ++i, counter.done()) {
      if (!faults[i]) continue;
      std::cout << file.describe(begin + i) << ": " << faults[i]->reason << '\n';
      damaged.push_back(json_of(file, begin + i, *faults[i]));
    }
  }
  return file.size();
}

int verify(const VerifyArgs& a) {
  Workers workers(a.machine.threads);
  nlohmann::ordered_json report = {{"files", 0}, {"records", 0}, {"good", 0}, {"bad", 0}};
  auto damaged = nlohmann::ordered_json::array();
  size_t files = 0, records = 0;
  for (const std::string& path : io::match_files(a.data)) {
    records += verify_file(path, a, workers, damaged);
    ++files;
  }
  const size_t good = records - damaged.size();
  report["files"] = files;
  report["records"] = records;
  report["good"] = good;
  report["bad"] = damaged.size();
  report["damaged"] = damaged;
  if (!a.json.empty()) {
    // Names of files and reasons may hold any bytes.
    const std::string text =
        report.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
    write_bytes(a.json, std::as_bytes(std::span(text)));
  }
  std::cout << good << " good records, " << damaged.size() << " damaged\n";
  return damaged.empty() ? 0 : 1;
}

}  // namespace

Command add_inspect(Options& records) {
  const auto a = std::make_shared<InspectArgs>();
  Options& app = records.add_command(
      "inspect", "What files hold: keys, labels, picture sizes; sample pictures on request");
  add_data_option(app, a->data);
  app.add("--samples", a->samples, "Pictures to write as PNG, spread over the records")
      .whole(0, 1000000)
      .show_default()
      .group("Output");
  app.add("--samples-out", a->samples_out, "Folder for them").show_default().group("Output");
  add_record_options(app, a->records);
  return {&app, [a] { return inspect(*a); }};
}

Command add_verify(Options& records) {
  const auto a = std::make_shared<VerifyArgs>();
  Options& app = records.add_command(
      "verify", "Checks every checksum, Example and picture; exit status 1 on damage");
  add_data_option(app, a->data);
  app.add("--classes", a->classes, "Labels must lie below this; 0: any")
      .whole(0, 2147483647)
      .show_default()
      .group("Data");
  app.add("--json", a->json,
          "Also write a report: files, records, good, bad, and each damaged record with "
          "file, record, offset, reason, expected_crc, found_crc")
      .group("Output");
  add_record_options(app, a->records);
  add_threads_option(app, a->machine);
  return {&app, [a] { return verify(*a); }};
}

}  // namespace mbconv::bin
