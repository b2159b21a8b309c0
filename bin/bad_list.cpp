#include "bin/bad_list.h"

#include <algorithm>
#include <fstream>
#include <ostream>
#include <sstream>
#include <utility>

#include "lib/error.h"

namespace mbconv::bin {

BadList::BadList(const std::filesystem::path& out, io::FaultPolicy policy)
    : list_(out / "bad_records.csv"),
      quarantine_(out / "quarantine"),
      quarantines_(policy == io::FaultPolicy::quarantine) {
  std::ifstream in(list_);
  for (std::string line; std::getline(in, line);) listed_.insert(line);
}

void BadList::begin_anew() {
  std::error_code error;
  std::filesystem::remove(list_, error);
  require(!error, list_.string(), ": cannot remove: ", error.message());
  listed_.clear();
}

void BadList::add(const io::RecordSet& records, const std::vector<io::BadRecord>& bad) {
  if (bad.empty()) return;
  std::ofstream out(list_, std::ios::app);
  if (listed_.insert(io::kBadRecordHeader).second) out << io::kBadRecordHeader << '\n';
  for (const io::BadRecord& record : bad) {
    const std::string line = io::csv_line(record);
    if (!added_.insert(line).second) continue;
    if (listed_.insert(line).second) out << line << '\n';
    places_ += (places_.empty() ? "" : " ") + record.file + ":" + std::to_string(record.record) +
               "@" + std::to_string(record.offset);
    texts_.push_back(record.text(records));
    if (quarantines_) quarantine_.add(records, record);
  }
  out.close();
  require(out.good(), list_.string(), ": cannot write");
}

std::string BadList::take_places() {
  return std::exchange(places_, {});
}

void BadList::report(std::ostream& out, size_t training, size_t validation) {
  if (training + validation == 0) return;
  out << "bad records left out so far: " << training << " of training, " << validation
      << " of validation" << (texts_.empty() ? "" : "; new:") << '\n';
  print_bad(out, texts_, list_.string());
  texts_.clear();
}

void print_bad(std::ostream& out, const std::vector<std::string>& texts,
               const std::string& rest_is_in) {
  constexpr size_t kMost = 20;
  for (size_t i = 0; i < std::min(kMost, texts.size()); ++i) out << "  " << texts[i] << '\n';
  if (texts.size() > kMost) {
    out << "  and " << texts.size() - kMost << " more"
        << (rest_is_in.empty() ? "" : " in " + rest_is_in) << '\n';
  }
  out.flush();
}

std::string join_numbers(const std::vector<uint32_t>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(numbers[i]);
    if (last > i) text += "-" + std::to_string(numbers[last]);
    i = last + 1;
  }
  return text;
}

std::vector<uint32_t> split_numbers(const std::string& text) {
  std::vector<uint32_t> numbers;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) {
    uint32_t first = 0, last = 0;
    char dash = '-';
    std::istringstream range(part);
    range >> first;
    last = first;
    const bool read = bool(range) && (range.peek() == EOF || bool(range >> dash >> last));
    require(read && dash == '-' && last >= first, "'", part, "' is no range of record numbers");
    for (uint64_t n = first; n <= last; ++n) numbers.push_back(static_cast<uint32_t>(n));
  }
  return numbers;
}

}  // namespace mbconv::bin
