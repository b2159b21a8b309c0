#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/framing.h"
#include "io/record_set.h"

namespace mbconv::io {

// What happens at a record that is damaged, or whose picture or label cannot be used.
enum class FaultPolicy {
  strict,     // an error
  skip,       // it is left out and listed
  quarantine  // as skip, and its bytes are kept for inspection
};
// Throws Error with the names there are.
FaultPolicy parse_fault_policy(std::string_view name);

// How many bad records are too many.
struct BadLimit {
  double share = 0.5;  // of the records met so far, at least 1000 or all there are
  int64_t count = -1;  // instead of the share, if 0 or more
};
// From "10%" or a count, "25". Throws Error.
BadLimit parse_bad_limit(std::string_view text);

// A record that was left out.
struct BadRecord {
  size_t number = 0;  // in the record set
  std::string file;
  size_t record = 0;    // in the file, from 0
  uint64_t offset = 0;  // of its frame, in the uncompressed data
  Fault fault;

  // "FILE: record 17 at offset 12345: REASON".
  std::string text(const RecordSet& records) const;
};
BadRecord make_bad_record(const RecordSet& records, size_t number, Fault fault);

// Copies bad records to a folder: each as FILE-HASH-RECORD.record, the frame's bytes as they are
// (at most 64 MiB), and a line for each in reasons.csv:
// "file,record,offset,expected_crc,found_crc,reason,saved_as". A record that is there already, from
// an earlier epoch or an interrupted run, is not added again. Throws Error where a file cannot be
// written.
class Quarantine {
 public:
  // Makes the folder with the first record.
  explicit Quarantine(std::filesystem::path folder) : folder_(std::move(folder)) {}
  void add(const RecordSet& records, const BadRecord& bad);

 private:
  std::filesystem::path folder_;
};

// A field of a CSV line: in quotes where it must be (RFC 4180), an end of line as a space.
std::string csv_field(std::string text);
// One line of a list of bad records, without an end of line: "file,record,offset,expected_crc,
// found_crc,reason", the CRCs empty where none is wrong.
std::string csv_line(const BadRecord& bad);
inline constexpr const char* kBadRecordHeader = "file,record,offset,expected_crc,found_crc,reason";

}  // namespace mbconv::io
