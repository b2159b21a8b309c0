#include "io/bad_record.h"

#include <charconv>
#include <cstdio>
#include <fstream>
#include <span>
#include <system_error>

#include "io/atomic_file.h"
#include "io/crc32c.h"
#include "lib/error.h"

namespace mbconv::io {
namespace {

namespace fs = std::filesystem;

std::string hex(uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", value);
  return text;
}

}  // namespace

FaultPolicy parse_fault_policy(std::string_view name) {
  if (name == "strict") return FaultPolicy::strict;
  if (name == "skip") return FaultPolicy::skip;
  require(name == "quarantine", "unknown policy '", name,
          "' for bad records, expected strict, skip or quarantine");
  return FaultPolicy::quarantine;
}

BadLimit parse_bad_limit(std::string_view text) {
  const bool percent = text.ends_with('%');
  const std::string_view digits = percent ? text.substr(0, text.size() - 1) : text;
  BadLimit limit;
  double value = -1;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value);
  const bool whole = percent || value == static_cast<double>(static_cast<int64_t>(value));
  const bool read = error == std::errc() && end == digits.end() && value >= 0 && value < 1e15;
  require(read && whole && (!percent || value <= 100), "'", text,
          "' is no limit for bad records, expected a count (25) or a share (10%)");
  if (percent) {
    limit.share = value / 100;
  } else {
    limit.count = static_cast<int64_t>(value);
  }
  return limit;
}

std::string BadRecord::text(const RecordSet& records) const {
  return records.describe(number) + ": " + fault.reason;
}

BadRecord make_bad_record(const RecordSet& records, size_t number, Fault fault) {
  const RecordSet::Place place = records.place(number);
  const RecordFile& file = records.file(place.file);
  return {number, file.path(), place.record, file.location(place.record).offset, std::move(fault)};
}

std::string csv_field(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  if (text.find_first_of(",\"") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string csv_line(const BadRecord& bad) {
  const auto& crc = bad.fault.crc;
  return csv_field(bad.file) + "," + std::to_string(bad.record) + "," + std::to_string(bad.offset) +
         "," + (crc ? hex(crc->expected) : "") + "," + (crc ? hex(crc->found) : "") + "," +
         csv_field(bad.fault.reason);
}

void Quarantine::add(const RecordSet& records, const BadRecord& bad) {
  constexpr size_t kMost = size_t{64} << 20;
  std::error_code error;
  fs::create_directories(folder_, error);
  require(!error, "cannot create the folder ", folder_.string(), ": ", error.message());
  const std::string name = fs::path(bad.file).filename().string() + "-" +
                           hex(crc32c(std::as_bytes(std::span(bad.file)))).substr(2) + "-" +
                           std::to_string(bad.record) + ".record";
  const fs::path saved = folder_ / name;
  if (fs::exists(saved)) return;
  const fs::path list = folder_ / "reasons.csv";
  const bool fresh = !fs::exists(list);
  std::ofstream out(list, std::ios::app);
  if (fresh) out << kBadRecordHeader << ",saved_as\n";
  out << csv_line(bad) << ',' << csv_field(name) << '\n';
  out.close();
  require(out.good(), list.string(), ": cannot write");
  std::vector<std::byte> raw;
  const RecordSet::Place place = records.place(bad.number);
  try {
    records.file(place.file).read_raw(place.record, kMost, raw);
  } catch (const Error&) {
    raw.clear();  // the disk does not give it: the reason says so
  }
  const std::span<const std::byte> bytes(raw);
  write_atomically(saved.string(), std::span(&bytes, 1));
}

}  // namespace mbconv::io
