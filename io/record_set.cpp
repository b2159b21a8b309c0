#include "io/record_set.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <limits>
#include <thread>
#include <utility>

#include "io/inflated_data.h"
#include "lib/error.h"

namespace mbconv::io {
namespace {

constexpr size_t kOpeners = 32;  // files opened at the same time

}  // namespace

RecordSet::RecordSet(const std::string& pattern, const OpenOptions& options)
    : pieces_(options.pieces) {
  const std::vector<std::string> paths = match_files(pattern);
  std::vector<std::optional<RecordFile>> opened(paths.size());
  std::vector<std::exception_ptr> errors(paths.size());
  std::atomic<size_t> next{0};
  const auto open_files = [&] {
    for (size_t f; (f = next++) < paths.size();) {
      try {
        opened[f].emplace(paths[f], options);
      } catch (...) {
        errors[f] = std::current_exception();
        // The files before this one are being opened: the first error is kept.
        next = paths.size();
      }
    }
  };
  {
    std::vector<std::jthread> openers;
    for (size_t i = 1; i < std::min(kOpeners, paths.size()); ++i) openers.emplace_back(open_files);
    open_files();
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  starts_.push_back(0);
  for (std::optional<RecordFile>& file : opened) {
    starts_.push_back(starts_.back() + file->size());
    files_.push_back(std::move(*file));
  }
}

RecordSet::Place RecordSet::place(size_t record) const {
  require(record < size(), "no record ", record, ", the files have ", size());
  const auto after = std::upper_bound(starts_.begin(), starts_.end(), record);
  const auto file = static_cast<size_t>(after - starts_.begin()) - 1;
  return {file, record - starts_[file]};
}

void RecordSet::read(size_t record, std::vector<std::byte>& out) const {
  const Place p = place(record);
  files_[p.file].read(p.record, out);
}

std::string RecordSet::describe(size_t record) const {
  const Place p = place(record);
  return files_[p.file].describe(p.record);
}

// Calls use(file, first record in it, count) for each file that those of the records [first, first
// + count) that exist lie in.
template <class Use>
void RecordSet::for_each_run(size_t first, size_t count, const Use& use) const {
  const size_t end = std::min(first + count, size());
  while (first < end) {
    const Place p = place(first);
    const size_t here = std::min(end - first, files_[p.file].size() - p.record);
    use(files_[p.file], p.record, here);
    first += here;
  }
}

void RecordSet::will_need(size_t first, size_t count) const {
  for_each_run(first, count, [](const RecordFile& file, size_t record, size_t here) {
    file.will_need(record, here);
  });
}

void RecordSet::inflate_ahead(size_t first, size_t count) const {
  std::vector<std::byte> bytes;
  for_each_run(first, count, [&](const RecordFile& file, size_t record, size_t here) {
    for (size_t i = 0; file.inflates() && i < here; ++i) {
      try {
        file.read_raw(record + i, std::numeric_limits<size_t>::max(), bytes);
      } catch (const std::exception&) {
        // Told to who reads the record.
      }
    }
  });
}

bool RecordSet::inflates() const {
  return std::ranges::any_of(files_, [](const RecordFile& file) { return file.inflates(); });
}

void RecordSet::keep_inflated(size_t runs, size_t count) const {
  if (!inflates()) return;
  uint64_t bytes = 0;
  for (const RecordFile& file : files_) {
    const RecordLocation last = file.location(file.size() - 1);
    bytes += last.offset + last.length;
  }
  // A run begins and ends within a piece, and pieces are only about that large.
  const uint64_t run = bytes * count / size() + 3 * pieces_->piece();
  pieces_->set_bound(std::min<uint64_t>(runs * run, bytes + files() * pieces_->piece()));
}

}  // namespace mbconv::io
