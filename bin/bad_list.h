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

  // Forgets the list of an earlier run in the folder, which left no checkpoint to go on from.
  void begin_anew();
  // Adds records that were left out; those that were added before change nothing. Throws Error
  // where a file cannot be written.
  void add(const io::RecordSet& records, const std::vector<io::BadRecord>& bad);
  // "FILE:RECORD@OFFSET FILE:RECORD@OFFSET ..." of those added since the last call, for log.csv.
  std::string take_places();
  // Prints how many records were left out so far, and those added since the last call, at most 20;
  // nothing if there are none at all.
  void report(std::ostream& out, size_t training, size_t validation);

 private:
  std::filesystem::path list_;
  io::Quarantine quarantine_;
  bool quarantines_;
  std::set<std::string> listed_;  // lines of the file, an interrupted run's included
  std::set<std::string> added_;   // lines that were added here
  std::string places_;
  std::vector<std::string> texts_;  // not reported yet
};

// Prints texts of bad records, a line each, at most 20; `rest_is_in` names the file with the
// others.
void print_bad(std::ostream& out, const std::vector<std::string>& texts,
               const std::string& rest_is_in);

// "3,17-19" of ascending numbers, and back. Throws Error for other text.
std::string join_numbers(const std::vector<uint32_t>& numbers);
std::vector<uint32_t> split_numbers(const std::string& text);

}  // namespace mbconv::bin
