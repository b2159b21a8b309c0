#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <set>
#include <string>
#include <vector>

#include "io/bad_record.h"

namespace mbconv::bin {

// The bad records of a training run: tells them at the end of an epoch, lists each once in
// OUT/bad_records.csv and, if told to, copies them to OUT/quarantine.
class BadList {
 public:
  BadList(const std::filesystem::path& out, io::FaultPolicy policy);

  // Adds records that were left out. Throws Error where a file cannot be written.
  void add(const io::RecordSet& records, const std::vector<io::BadRecord>& bad);
  // "FILE:RECORD@OFFSET FILE:RECORD@OFFSET ..." of those added since the last call, for log.csv.
  std::string take_places();
  // Prints those added since the last call, at most 20, after their number; nothing if none.
  void report(std::ostream& out);

 private:
  std::filesystem::path list_;
  io::Quarantine quarantine_;
  bool quarantines_;
  std::set<std::string> listed_;  // lines of the list
  std::string places_;
  std::vector<std::string> texts_;  // not reported yet
};

// Prints a list of bad records as BadList does.
void print_bad(std::ostream& out, const std::vector<std::string>& texts,
               const std::string& rest_is_in);

// "3,17-19" of ascending numbers, and back. Throws Error for other text.
std::string join_numbers(const std::vector<uint32_t>& numbers);
std::vector<uint32_t> split_numbers(const std::string& text);

}  // namespace mbconv::bin
