#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "io/file.h"
#include "io/framing.h"

namespace mbconv::io {

// Where a record's frame begins, in the file's uncompressed bytes, and the length of its data. Of a
// damaged frame: where it begins, and the bytes up to the next frame or the end of the file.
struct RecordLocation {
  uint64_t offset;
  uint64_t length;
  friend bool operator==(const RecordLocation&, const RecordLocation&) = default;
};

// A frame that cannot be followed: its length's CRC is wrong, or its length runs past the end.
struct DamagedFrame {
  size_t record;  // its number: from 0, a damaged frame counts as one record
  Fault fault;
  friend bool operator==(const DamagedFrame&, const DamagedFrame&) = default;
};

// The frames of a file of records, as their headers tell; the data are not looked at.
struct RecordIndex {
  std::vector<RecordLocation> records;
  std::vector<DamagedFrame> damaged;  // ascending
  friend bool operator==(const RecordIndex&, const RecordIndex&) = default;

  // What is wrong with the frame of a record; none if nothing is.
  const Fault* fault(size_t record) const;
};

enum class OnDamage {
  stop,          // the index ends with the first damaged frame
  resynchronise  // it goes on at the next frame whose length's CRC is right and which fits the file
};

// Bytes that are read at ascending offsets.
struct ByteSource {
  uint64_t size;
  std::function<void(uint64_t offset, std::span<std::byte> out)> read_at;
};

// One pass over the headers of frames. Throws Error where they cannot be read.
RecordIndex index_records(const ByteSource& source, OnDamage on_damage);
// Of a plain file.
RecordIndex index_records(const InputFile& file, OnDamage on_damage);

}  // namespace mbconv::io
