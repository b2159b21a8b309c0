#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/tfrecord.h"

namespace mbconv::io {

// All records of several files as one sequence, file after file.
class RecordSet {
 public:
  // Where a record lies.
  struct Place {
    size_t file;    // number of the file in the set
    size_t record;  // number of the record in the file
  };

  // Opens the files of match_files(pattern), several at a time, as opening waits for the disk.
  explicit RecordSet(const std::string& pattern, const OpenOptions& options = {});

  size_t size() const { return starts_.back(); }
  size_t files() const { return files_.size(); }
  const RecordFile& file(size_t number) const { return files_[number]; }
  // Throws Error if there is no such record, as all that follow do.
  Place place(size_t record) const;
  void read(size_t record, std::vector<std::byte>& out) const;
  // RecordFile::describe of the file that holds the record.
  std::string describe(size_t record) const;
  // RecordFile::will_need of those of the records [first, first + count) that exist.
  void will_need(size_t first, size_t count) const;
  // Reads those that lie in files of RecordFile::inflates, so that their pieces are in the cache.
  void inflate_ahead(size_t first, size_t count) const;
  bool inflates() const;  // whether any file does
  // Sets the bound of the cache of pieces: for `runs` runs of `count` consecutive records.
  void keep_inflated(size_t runs, size_t count) const;

 private:
  template <class Use>
  void for_each_run(size_t first, size_t count, const Use& use) const;

  std::shared_ptr<PieceCache> pieces_;
  std::vector<RecordFile> files_;
  std::vector<size_t> starts_;  // starts_[f]: number of file f's first record; one more at the end
};

}  // namespace mbconv::io
