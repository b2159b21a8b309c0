#include "io/example.h"

#include <array>
#include <cstring>
#include <sstream>
#include <type_traits>
#include <utility>

#include "io/wire.h"
#include "lib/error.h"

namespace mbconv::io {
namespace {

using Features = std::map<std::string, Feature, std::less<>>;
using wire::Type;

// Field numbers.
constexpr uint32_t kFeatures = 1;                       // Example
constexpr uint32_t kFeatureEntry = 1;                   // Features
constexpr uint32_t kKey = 1, kValue = 2;                // entry of the map
constexpr uint32_t kBytes = 1, kFloats = 2, kInts = 3;  // Feature
constexpr uint32_t kListValue = 1;                      // each list

struct Tag {
  uint32_t field;
  Type type;
  bool is(uint32_t wanted_field, Type wanted_type) const {
    return field == wanted_field && type == wanted_type;
  }
};

// Reads one message, which is a part of the record. Lengths are checked against the message that
// holds them, so nothing is read or allocated beyond the record's own size.
class Reader {
 public:
  explicit Reader(Bytes record) : record_(record), end_(record.size()) {}

  bool done() const { return position_ == end_; }

  // At most 10 bytes; the tenth holds the 64th bit.
  uint64_t varint() {
    const size_t start = position_;
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (position_ == end_) fail(start, "a varint runs past the end of its message");
      const auto byte = static_cast<uint64_t>(record_[position_++]);
      if (shift == 63 && byte > 1) break;
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail(start, "a varint has more than 64 bits");
  }

  Tag tag() {
    const size_t start = position_;
    const uint64_t tag = varint();
    if (tag > UINT32_MAX || tag < 8) fail(start, "invalid field number ", tag >> 3);
    const auto type = static_cast<uint32_t>(tag & 7);
    if (type == 3 || type == 4) fail(start, "field ", tag >> 3, " is a group");
    if (type > 5) fail(start, "field ", tag >> 3, " has the invalid wire type ", type);
    return {static_cast<uint32_t>(tag >> 3), static_cast<Type>(type)};
  }

  // A length and as many bytes, as a message of their own.
  Reader message() {
    const size_t start = position_;
    const uint64_t length = varint();
    if (length > end_ - position_) {
      fail(start, "a length of ", length, " runs past the end of its message, which has ",
           end_ - position_, " more bytes");
    }
    Reader inner(*this);
    position_ += length;
    inner.end_ = position_;
    return inner;
  }

  template <class T>
  T fixed() {
    if (end_ - position_ < sizeof(T)) fail(position_, "a number runs past the end of its message");
    const T value = wire::load<T>(record_.data() + position_);
    position_ += sizeof(T);
    return value;
  }

  Bytes rest() const { return record_.subspan(position_, end_ - position_); }

  void skip(Type type) {
    switch (type) {
      case Type::varint:
        varint();
        break;
      case Type::fixed64:
        fixed<uint64_t>();
        break;
      case Type::length:
        message();
        break;
      case Type::fixed32:
        fixed<uint32_t>();
        break;
    }
  }

 private:
  template <class... Parts>
  [[noreturn]] static void fail(size_t position, const Parts&... parts) {
    throw Error("malformed Example at byte ", position, ": ", parts...);
  }

  Bytes record_;
  size_t position_ = 0, end_ = 0;
};

std::string text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// One value of a list, of the wire type that its numbers have outside packed fields.
void append(Reader& in, std::vector<float>& list) {
  list.push_back(in.fixed<float>());
}
void append(Reader& in, std::vector<int64_t>& list) {
  list.push_back(static_cast<int64_t>(in.varint()));
}
void append(Reader& in, std::vector<Bytes>& list) {
  list.push_back(in.message().rest());
}

template <class T>
constexpr Type kTypeOf = std::is_same_v<T, float>     ? Type::fixed32
                         : std::is_same_v<T, int64_t> ? Type::varint
                                                      : Type::length;

// Adds the values of a list to `feature`, or puts them in place of values of another type.
template <class T>
void parse_list(Reader in, Feature& feature) {
  if (!std::holds_alternative<std::vector<T>>(feature)) feature = std::vector<T>();
  auto& list = std::get<std::vector<T>>(feature);
  while (!in.done()) {
    const Tag tag = in.tag();
    if (tag.is(kListValue, kTypeOf<T>)) {
      append(in, list);
    } else if (tag.is(kListValue, Type::length)) {
      for (Reader packed = in.message(); !packed.done();) append(packed, list);
    } else {
      in.skip(tag.type);
    }
  }
}

void parse_feature(Reader in, Feature& feature) {
  while (!in.done()) {
    const Tag tag = in.tag();
    if (tag.is(kBytes, Type::length)) {
      parse_list<Bytes>(in.message(), feature);
    } else if (tag.is(kFloats, Type::length)) {
      parse_list<float>(in.message(), feature);
    } else if (tag.is(kInts, Type::length)) {
      parse_list<int64_t>(in.message(), feature);
    } else {
      in.skip(tag.type);
    }
  }
}

void parse_entry(Reader in, Features& features) {
  Bytes key;
  Feature value;
  while (!in.done()) {
    const Tag tag = in.tag();
    if (tag.is(kKey, Type::length)) {
      key = in.message().rest();
    } else if (tag.is(kValue, Type::length)) {
      parse_feature(in.message(), value);
    } else {
      in.skip(tag.type);
    }
  }
  features.insert_or_assign(text(key), std::move(value));
}

void parse_features(Reader in, Features& features) {
  while (!in.done()) {
    const Tag tag = in.tag();
    if (tag.is(kFeatureEntry, Type::length)) {
      parse_entry(in.message(), features);
    } else {
      in.skip(tag.type);
    }
  }
}

std::vector<std::byte> list_message(const std::vector<Bytes>& list) {
  std::vector<std::byte> out;
  for (const Bytes value : list) wire::put_bytes(out, kListValue, value);
  return out;
}

std::vector<std::byte> list_message(const std::vector<float>& list) {
  std::vector<std::byte> out;
  if (!list.empty()) wire::put_bytes(out, kListValue, std::as_bytes(std::span(list)));
  return out;
}

std::vector<std::byte> list_message(const std::vector<int64_t>& list) {
  std::vector<std::byte> packed, out;
  for (const int64_t value : list) wire::put_varint(packed, static_cast<uint64_t>(value));
  if (!list.empty()) wire::put_bytes(out, kListValue, packed);
  return out;
}

// A key as messages show it: short, and without control characters.
std::string in_quotes(std::string_view key) {
  constexpr size_t kMost = 60;
  std::string out = "'";
  for (const char c : key.substr(0, kMost)) {
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  }
  return out + (key.size() > kMost ? "...'" : "'");
}

std::string list_of_keys(const Features& features) {
  constexpr size_t kMost = 20;
  std::ostringstream out;
  size_t count = 0;
  for (const auto& [key, value] : features) {
    if (count == kMost) break;
    out << (count++ == 0 ? "" : ", ") << in_quotes(key);
  }
  if (features.empty()) out << "none";
  if (features.size() > kMost) out << " and " << features.size() - kMost << " more";
  return out.str();
}

// `wanted` if the user named a key, else the one of `known` that is there.
Features::const_iterator find_key(const Features& features, const std::string& wanted,
                                  const std::array<const char*, 2>& known, const char* option) {
  if (!wanted.empty()) {
    const auto found = features.find(wanted);
    if (found != features.end()) return found;
    throw Error("the Example has no key ", in_quotes(wanted),
                "; its keys: ", list_of_keys(features));
  }
  const auto first = features.find(known[0]), second = features.find(known[1]);
  if (first != features.end() && second != features.end()) {
    throw Error("the Example has both keys '", known[0], "' and '", known[1],
                "': name the one that holds the ", option);
  }
  if (first != features.end()) return first;
  if (second != features.end()) return second;
  throw Error("the Example has no key '", known[0], "' or '", known[1],
              "': name the one that holds the ", option, "; its keys: ", list_of_keys(features));
}

template <class T>
const T& only_value(const std::pair<const std::string, Feature>& entry, const char* type) {
  static constexpr const char* kNames[] = {"bytes", "float", "int64"};
  const auto* list = std::get_if<std::vector<T>>(&entry.second);
  if (list == nullptr) {
    throw Error("key ", in_quotes(entry.first), " of the Example has type ",
                kNames[entry.second.index()], ", expected ", type);
  }
  if (list->size() != 1) {
    throw Error("key ", in_quotes(entry.first), " of the Example has ", list->size(),
                " values, expected 1");
  }
  return list->front();
}

}  // namespace

Features parse_example(Bytes record) {
  Features features;
  for (Reader in(record); !in.done();) {
    const Tag tag = in.tag();
    if (tag.is(kFeatures, Type::length)) {
      parse_features(in.message(), features);
    } else {
      in.skip(tag.type);
    }
  }
  return features;
}

std::vector<std::byte> make_example(const Features& features) {
  std::vector<std::byte> entries;
  for (const auto& [key, value] : features) {
    std::vector<std::byte> feature, entry;
    const auto list = std::visit([](const auto& values) { return list_message(values); }, value);
    wire::put_bytes(feature, static_cast<uint32_t>(value.index()) + kBytes, list);
    wire::put_bytes(entry, kKey, std::as_bytes(std::span(key)));
    wire::put_bytes(entry, kValue, feature);
    wire::put_bytes(entries, kFeatureEntry, entry);
  }
  std::vector<std::byte> out;
  wire::put_bytes(out, kFeatures, entries);
  return out;
}

LabelledImage parse_labelled_image(Bytes record, const ExampleKeys& keys) {
  constexpr const char* kLabelFrom1 = "image/class/label";
  const Features features = parse_example(record);
  const auto image = find_key(features, keys.image, {"image", "image/encoded"}, "image");
  const auto label = find_key(features, keys.label, {"label", kLabelFrom1}, "label");
  const int64_t stored = only_value<int64_t>(*label, "int64");
  const int64_t offset = keys.label_offset.value_or(label->first == kLabelFrom1 ? 1 : 0);
  int64_t from_zero = 0;
  if (__builtin_sub_overflow(stored, offset, &from_zero) || from_zero < 0) {
    throw Error("key ", in_quotes(label->first), " of the Example holds the label ", stored,
                ", below the label offset ", offset);
  }
  return {only_value<Bytes>(*image, "bytes"), from_zero, offset};
}

}  // namespace mbconv::io
