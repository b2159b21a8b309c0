#include "io/tfrecord.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <optional>
#include <sstream>
#include <tuple>
#include <utility>

#include "io/atomic_file.h"
#include "io/crc32c.h"
#include "io/file.h"
#include "io/inflate.h"
#include "io/inflated_data.h"
#include "io/wire.h"
#include "lib/error.h"

namespace mbconv::io {
namespace {

constexpr size_t kWriteBuffer = size_t{1} << 20;

enum class Kind { plain, compressed, unknown };

// Which kind of file it is by its first bytes; `why` gets the reason for unknown.
Kind kind_of(const InputFile& file, std::string& why) {
  std::vector<std::byte> head(std::min<uint64_t>(kFrameHeader, file.size()));
  file.read_at(0, head);
  const bool whole = head.size() == kFrameHeader;
  if (whole && length_crc(head.data()).matches()) return Kind::plain;
  if (looks_compressed(head)) return Kind::compressed;
  std::ostringstream text;
  text << "not a TFRecord file: ";
  if (whole) {
    text << "record 0 at offset 0: wrong length CRC: " << length_crc(head.data())
         << "; and no gzip or zlib header";
  } else {
    text << "it has " << head.size() << " bytes, a frame header " << kFrameHeader;
  }
  why = text.str();
  return Kind::unknown;
}

// Whether so many descriptors are in use that this one should not stay. They are given lowest
// first, so its number tells.
bool descriptors_are_scarce(const FileDescriptor& file) {
  rlimit limit{};
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
         static_cast<rlim_t>(file.get()) >= limit.rlim_cur / 2;
}

// A file that holds one damaged record and nothing else.
RecordIndex nothing_but_damage(const InputFile& file, const std::string& reason) {
  return {{{0, file.size()}}, {{0, {reason, {}}}}};
}

// Adds to the index of inflated data that they end before the compressed data should.
void add_lost_end(RecordIndex& index, uint64_t bytes, const std::string& damage) {
  if (!index.damaged.empty() && index.damaged.back().record + 1 == index.records.size()) {
    index.damaged.back().fault.reason += "; " + damage;
    return;
  }
  index.damaged.push_back({index.records.size(), {damage, {}}});
  index.records.push_back({bytes, 0});
}

}  // namespace

struct RecordFile::Impl {
  Impl(std::string file_path, const OpenOptions& options) : path(std::move(file_path)) {
    InputFile opened(path);
    try {
      load(opened, options);
      const bool stop = options.on_damage == OnDamage::stop;
      if (stop && !index.damaged.empty()) {
        const DamagedFrame& first = index.damaged.front();
        throw Error(place(first.record), ": ", first.fault.reason);
      }
    } catch (const Error& error) {
      throw Error(path, ": ", error.what());
    }
    const bool nameless = inflated && data_path.empty() && !in_place;
    if (nameless || !descriptors_are_scarce(opened.descriptor())) file = std::move(opened);
  }

  // Finds the records of `opened`, or of what it is replaced by: its inflated data.
  void load(InputFile& opened, const OpenOptions& options) {
    const FileStamp stamp = stamp_of(opened);
    if (options.cache != nullptr) {
      auto cached = options.cache->load(path, stamp);
      if (cached && adopt(std::move(*cached), opened, options)) return;
    }
    make_index(opened, options);
    const bool complete = options.on_damage == OnDamage::resynchronise || index.damaged.empty();
    const bool keeps_data = !inflated || in_place || !data_path.empty();
    if (options.cache == nullptr || !complete || !keeps_data) return;
    ShardIndex kept{stamp, inflated, opened.size(), {}, index};
    if (in_place) {
      kept.bytes = in_place->size();
      kept.points = in_place->points();
    }
    options.cache->store(path, kept);
  }

  // Takes a cached index. False if neither the inflated data it needs nor a way to read them in
  // place are there.
  bool adopt(ShardIndex cached, InputFile& opened, const OpenOptions& options) {
    if (cached.inflated && !open_inflated(cached.bytes, opened, *options.cache)) {
      if (options.pieces == nullptr || cached.points.empty() ||
          !pieces_are_small(cached.bytes, cached.points))
        return false;
      in_place =
          std::make_unique<InflatedData>(options.pieces, cached.bytes, std::move(cached.points));
    }
    inflated = cached.inflated;
    index = std::move(cached.index);
    return true;
  }

  // Replaces the compressed file by its inflated copy. False if there is none.
  bool open_inflated(uint64_t bytes, InputFile& opened, const IndexCache& cache) {
    const std::string kept = cache.inflated_path(path);
    if (kept.empty()) return false;
    try {
      InputFile data(kept);
      if (data.size() != bytes) return false;
      opened = std::move(data);
    } catch (const Error&) {
      return false;
    }
    data_path = kept;
    return true;
  }

  void make_index(InputFile& opened, const OpenOptions& options) {
    const bool stop = options.on_damage == OnDamage::stop;
    if (opened.size() == 0) {
      const std::string reason = "the file is empty (0 bytes)";
      require(!stop, reason);
      index = nothing_but_damage(opened, reason);
      return;
    }
    std::string why;
    const Kind kind = kind_of(opened, why);
    require(kind != Kind::unknown || !stop, why);
    if (kind == Kind::compressed) {
      make_inflated_index(opened, options);
    } else {
      index = index_records(opened, options.on_damage);
    }
    const bool no_frame = index.records.size() == 1 && !index.damaged.empty();
    if (no_frame && kind == Kind::unknown) index = nothing_but_damage(opened, why);
  }

  void make_inflated_index(InputFile& opened, const OpenOptions& options) {
    const bool stop = options.on_damage == OnDamage::stop;
    std::optional<InputFile> data;
    std::string damage;
    if (options.pieces != nullptr) damage = inflate_in_place(opened, options.pieces);
    if (!in_place) std::tie(data, damage) = inflate_data(opened, options.cache);
    const uint64_t bytes = in_place ? in_place->size() : data->size();
    if (damage.empty() && bytes == 0) damage = "it inflates to 0 bytes";
    if (stop && !damage.empty())
      throw Error("no plain TFRecord file, and read as gzip or zlib: ", damage);
    if (bytes == 0) {  // perhaps a plain file whose first bytes are damaged
      data_path.clear();
      in_place.reset();
      index = index_records(opened, options.on_damage);
      if (index.records.size() == 1) index = nothing_but_damage(opened, damage);
      return;
    }
    inflated = true;
    if (data) opened = std::move(*data);
    const ByteSource source{bytes, [&](uint64_t at, auto out) { read_data(opened, at, out); }};
    index = index_records(source, options.on_damage);
    if (!damage.empty()) add_lost_end(index, bytes, damage);
  }

  // Finds out how to read the inflated data in place, if that can be done, and what is wrong with
  // them, "" if nothing.
  std::string inflate_in_place(const InputFile& opened, const std::shared_ptr<PieceCache>& pieces) {
    AccessPoints passed{pieces->piece()};
    uint64_t size = 0;
    std::string damage = inflate(
        opened, [&](auto data) { size += data.size(); }, &passed);
    if (pieces_are_small(size, passed.points))
      in_place = std::make_unique<InflatedData>(pieces, size, std::move(passed.points));
    return damage;
  }

  // The inflated data and what is wrong with them, "" if nothing.
  std::pair<InputFile, std::string> inflate_data(const InputFile& opened, const IndexCache* cache) {
    const std::string kept = cache != nullptr ? cache->inflated_path(path) : "";
    std::optional<AtomicFile> out;
    try {
      if (!kept.empty()) out.emplace(kept);
    } catch (const Error&) {
      // Another process is writing it: this one does without.
    }
    if (!out) {
      TemporaryFile temporary;
      std::string damage = inflate(opened, [&](auto data) { temporary.write(data); });
      return {temporary.finish(), std::move(damage)};
    }
    std::string damage = inflate(opened, [&](auto data) { out->write(data); });
    out->commit();
    data_path = kept;
    return {InputFile(kept), std::move(damage)};
  }

  std::string place(size_t record) const {
    std::ostringstream out;
    out << "record " << record << " at offset " << index.records[record].offset
        << (inflated ? " (inflated)" : "");
    return out.str();
  }

  // Reads where the offsets of the index are, in the file or its inflated data.
  void read_data(const InputFile& from, uint64_t offset, std::span<std::byte> out) const {
    if (in_place) {
      in_place->read_at(from, offset, out);
    } else {
      from.read_at(offset, out);
    }
  }

  // Calls `use` with the file that read_data reads from.
  template <class Use>
  void with_data(const Use& use) const {
    if (file) {
      use(*file);
    } else {
      use(InputFile(data_path.empty() ? path : data_path));
    }
  }

  std::string path;
  bool inflated = false;
  std::string data_path;                   // of inflated data in the cache
  std::unique_ptr<InflatedData> in_place;  // instead of a copy
  std::optional<InputFile> file;           // none: opened for each read
  RecordIndex index;
};

RecordFile::RecordFile(std::string path, const OpenOptions& options)
    : impl_(std::make_unique<Impl>(std::move(path), options)) {}
RecordFile::~RecordFile() = default;
RecordFile::RecordFile(RecordFile&&) noexcept = default;
RecordFile& RecordFile::operator=(RecordFile&&) noexcept = default;

const std::string& RecordFile::path() const {
  return impl_->path;
}
size_t RecordFile::size() const {
  return impl_->index.records.size();
}

RecordLocation RecordFile::location(size_t record) const {
  require(record < size(), path(), ": no record ", record, ", the file has ", size());
  return impl_->index.records[record];
}

std::string RecordFile::describe(size_t record) const {
  location(record);
  return path() + ": " + impl_->place(record);
}

void RecordFile::read(size_t record, std::vector<std::byte>& out) const {
  const uint64_t offset = location(record).offset, length = location(record).length;
  const auto fail = [&](Fault fault) {
    if (fault.crc) {
      std::ostringstream text;
      text << fault.reason << ": " << *fault.crc;
      fault.reason = text.str();
    }
    throw DamagedRecord(describe(record), std::move(fault));
  };
  if (const Fault* fault = impl_->index.fault(record))
    throw DamagedRecord(describe(record), *fault);
  out.resize(kFrameHeader + length + kFrameFooter);
  impl_->with_data([&](const InputFile& file) {
    try {
      impl_->read_data(file, offset, out);
    } catch (const Error& error) {
      fail({error.what(), {}});
    }
  });
  const Crc header = length_crc(out.data());
  if (!header.matches()) fail({"wrong length CRC", header});
  if (wire::load<uint64_t>(out.data()) != length)
    fail({"the file has changed since it was indexed", {}});
  const auto data = std::span(out).subspan(kFrameHeader, length);
  const Crc crc{masked_crc32c(data), wire::load<uint32_t>(data.data() + length)};
  if (!crc.matches()) fail({"wrong data CRC", crc});
  out.erase(out.begin(), out.begin() + kFrameHeader);
  out.resize(length);
}

void RecordFile::read_raw(size_t record, size_t most, std::vector<std::byte>& out) const {
  const uint64_t offset = location(record).offset, length = location(record).length;
  const bool damaged = impl_->index.fault(record) != nullptr;
  out.resize(std::min<uint64_t>(most, damaged ? length : kFrameHeader + length + kFrameFooter));
  impl_->with_data([&](const InputFile& file) {
    const uint64_t size = impl_->in_place ? impl_->in_place->size() : file.size();
    out.resize(std::min<uint64_t>(out.size(), size - std::min(offset, size)));
    impl_->read_data(file, offset, out);
  });
}

bool RecordFile::inflates() const {
  return impl_->in_place != nullptr;
}

void RecordFile::will_need(size_t first, size_t count) const {
  if (count == 0 || !impl_->file || inflates()) return;
  const RecordLocation last = location(first + count - 1);
  const uint64_t begin = location(first).offset;
  const uint64_t end = last.offset + last.length + kFrameHeader + kFrameFooter;
  posix_fadvise(impl_->file->descriptor().get(), static_cast<off_t>(begin),
                static_cast<off_t>(end - begin), POSIX_FADV_WILLNEED);
}

struct RecordWriter::Impl {
  explicit Impl(const std::string& path) : file(path) {}

  void flush() {
    file.write(pending);
    pending.clear();
  }

  AtomicFile file;
  std::vector<std::byte> pending;
};

RecordWriter::RecordWriter(const std::string& path) : impl_(std::make_unique<Impl>(path)) {}
RecordWriter::~RecordWriter() = default;

void RecordWriter::write(std::span<const std::byte> data) {
  append_record(impl_->pending, data);
  if (impl_->pending.size() >= kWriteBuffer) impl_->flush();
}

void RecordWriter::close() {
  impl_->flush();
  impl_->file.commit();
}

}  // namespace mbconv::io
