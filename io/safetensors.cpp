#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <tuple>
#include <utility>

#include "io/atomic_file.h"
#include "io/file.h"
#include "io/wire.h"
#include "lib/error.h"

namespace mbconv::io {
namespace {

using Json = nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMostHeader = 100'000'000;  // the format's own limit
constexpr const char* kMetadata = "__metadata__";

struct StoredType {
  const char* name;
  size_t size;
  Dtype dtype;  // after reading
};

constexpr StoredType kStoredTypes[] = {
    {"F32", 4, Dtype::f32}, {"F64", 8, Dtype::f64},  {"I64", 8, Dtype::i64},
    {"F16", 2, Dtype::f32}, {"BF16", 2, Dtype::f32},
};

const char* stored_name(Dtype dtype) {
  const auto* found = std::find_if(std::begin(kStoredTypes), std::end(kStoredTypes),
                                   [&](const StoredType& type) { return type.dtype == dtype; });
  return found->name;
}

// A tensor as the header describes it.
struct Entry {
  std::string name;
  const StoredType* type = nullptr;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;
};

// The number of elements, or none if it does not fit.
std::optional<uint64_t> count_of(const std::vector<int64_t>& shape) {
  uint64_t count = 1;
  for (const int64_t d : shape) {
    if (d < 0 || __builtin_mul_overflow(count, static_cast<uint64_t>(d), &count)) return {};
  }
  return count;
}

// Parses the header, which has at most three levels, and refuses keys that are there twice: the
// parser alone would keep the last.
Json parse_json(const std::string& text) {
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) {
      require(depth < 3, "the header is nested too deeply");
      keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::array_start) {
      require(depth < 3, "the header is nested too deeply");
    } else if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) throw Error("the header has '", key, "' twice");
    }
    return true;
  };
  try {
    Json header = Json::parse(text, check);
    require(header.is_object(), "the header is no JSON object");
    return header;
  } catch (const Json::exception& error) {
    throw Error("the header is no valid JSON: ", error.what());
  }
}

const Json& member(const Json& object, const char* key) {
  const auto found = object.find(key);
  require(found != object.end(), "has no ", key);
  return *found;
}

// An array of integers in [0, 2^63).
std::vector<int64_t> integers(const Json& value, const char* key) {
  require(value.is_array(), "its ", key, " is no list");
  std::vector<int64_t> result;
  for (const Json& item : value) {
    require(item.is_number_unsigned() && item.get<uint64_t>() <= INT64_MAX, "its ", key,
            " has a value that is no size");
    result.push_back(item.get<int64_t>());
  }
  return result;
}

Entry parse_entry(const std::string& name, const Json& value) {
  require(value.is_object(), "is no JSON object");
  Entry entry{.name = name, .shape = integers(member(value, "shape"), "shape")};
  const Json& dtype = member(value, "dtype");
  for (const StoredType& type : kStoredTypes) {
    if (dtype == type.name) entry.type = &type;
  }
  if (entry.type == nullptr) {
    throw Error("has dtype ", dtype.dump(), ", expected F32, F64, I64, F16 or BF16");
  }
  const std::vector<int64_t> offsets = integers(member(value, "data_offsets"), "data_offsets");
  require(offsets.size() == 2 && offsets[0] <= offsets[1],
          "its data_offsets are no pair [begin, end]");
  entry.begin = static_cast<uint64_t>(offsets[0]);
  entry.end = static_cast<uint64_t>(offsets[1]);
  const std::optional<uint64_t> count = count_of(entry.shape);
  const uint64_t size = entry.type->size;
  require(count && *count <= UINT64_MAX / size && *count * size == entry.end - entry.begin,
          "its shape does not fit its ", entry.end - entry.begin, " bytes");
  return entry;
}

std::map<std::string, std::string> parse_metadata(const Json& value) {
  require(value.is_object(), kMetadata, " is no JSON object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) throw Error(kMetadata, ": '", key, "' is no string");
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

// Sorts entries by their data, which must fill `size` bytes without hole or overlap.
void sort_and_check(std::vector<Entry>& entries, uint64_t size) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t end = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != end) {
      throw Error("tensor '", entry.name, "' begins at byte ", entry.begin, " of the data, ",
                  entry.begin < end ? "overlapping" : "after a hole behind",
                  " the one before it, which ends at ", end);
    }
    end = entry.end;
  }
  require(end <= size, "truncated: the tensors need ", end, " bytes of data, the file has ", size);
  require(end == size, "the tensors need ", end, " bytes of data, the file has ", size);
}

// The bits of a half-precision number as those of a float, exactly.
uint32_t widen_f16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1F, mantissa = half & 0x3FF;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    return sign | std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f);
  }
  const uint32_t wide = exponent == 0x1F ? 0xFF : exponent + (127 - 15);
  return sign | wide << 23 | mantissa << 13;
}

uint32_t widen_bf16(uint16_t half) {
  return static_cast<uint32_t>(half) << 16;
}

// Widens 16-bit numbers that lie in the second half of `bytes`, in place: number i is read before
// what is written reaches it.
template <uint32_t (*widen)(uint16_t)>
void widen_in_place(std::vector<std::byte>& bytes) {
  const size_t count = bytes.size() / 4;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t wide = widen(wire::load<uint16_t>(bytes.data() + 2 * (count + i)));
    std::memcpy(bytes.data() + 4 * i, &wide, 4);
  }
}

NamedTensor read_tensor(const InputFile& file, uint64_t data, Entry& entry) {
  NamedTensor tensor{.name = std::move(entry.name),
                     .dtype = entry.type->dtype,
                     .shape = std::move(entry.shape),
                     .bytes = {}};
  const uint64_t stored = entry.end - entry.begin;
  tensor.bytes.resize(stored / entry.type->size * size_of(tensor.dtype));
  file.read_at(data + entry.begin, std::span(tensor.bytes).last(stored));
  if (std::string_view(entry.type->name) == "F16") widen_in_place<widen_f16>(tensor.bytes);
  if (std::string_view(entry.type->name) == "BF16") widen_in_place<widen_bf16>(tensor.bytes);
  return tensor;
}

std::string read_header(const InputFile& file) {
  require(file.size() >= kLengthBytes, "truncated: it has ", file.size(),
          " bytes, no safetensors file is that short");
  std::array<std::byte, kLengthBytes> prefix{};
  file.read_at(0, prefix);
  const auto length = wire::load<uint64_t>(prefix.data());
  require(length <= kMostHeader, "no safetensors file: its header would have ", length,
          " bytes, more than ", kMostHeader);
  require(length <= file.size() - kLengthBytes, "truncated: its header has ", length,
          " bytes, the file ", file.size());
  std::string text(length, '\0');
  file.read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
  return text;
}

TensorFile read(const InputFile& file) {
  const std::string text = read_header(file);
  const uint64_t data = kLengthBytes + text.size();
  const Json header = parse_json(text);
  TensorFile result;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == kMetadata) {
      result.metadata = parse_metadata(value);
      continue;
    }
    try {
      entries.push_back(parse_entry(name, value));
    } catch (const Error& error) {
      throw Error("tensor '", name, "' ", error.what());
    }
  }
  sort_and_check(entries, file.size() - data);
  for (Entry& entry : entries) result.tensors.push_back(read_tensor(file, data, entry));
  return result;
}

std::vector<const NamedTensor*> in_file_order(const TensorFile& file) {
  std::vector<const NamedTensor*> tensors;
  for (const NamedTensor& tensor : file.tensors) tensors.push_back(&tensor);
  std::stable_partition(tensors.begin(), tensors.end(),
                        [](const NamedTensor* tensor) { return size_of(tensor->dtype) == 8; });
  return tensors;
}

template <class Number>
std::string json_list(const std::vector<Number>& numbers) {
  std::string text = "[";
  for (const Number number : numbers) {
    if (text.size() > 1) text += ',';
    text += std::to_string(number);
  }
  return text += ']';
}

// Tensors come in the order of the file, for people to read: a Json object would sort them.
std::string make_header(const std::vector<const NamedTensor*>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  std::set<std::string_view> names = {kMetadata};
  uint64_t offset = 0;
  try {
    if (!metadata.empty()) text += Json(kMetadata).dump() + ":" + Json(metadata).dump();
    for (const NamedTensor* tensor : tensors) {
      const std::string& name = tensor->name;
      require(names.insert(name).second, "tensor name '", name, "' is reserved or there twice");
      const std::optional<uint64_t> count = count_of(tensor->shape);
      const size_t size = tensor->bytes.size();
      require(count && *count <= size && *count * size_of(tensor->dtype) == size, "tensor '", name,
              "' has ", size, " bytes, which do not fit its shape");
      if (text.size() > 1) text += ',';
      text.append(Json(name).dump()).append(R"(:{"dtype":")").append(stored_name(tensor->dtype));
      text.append(R"(","shape":)").append(json_list(tensor->shape));
      text.append(R"(,"data_offsets":)").append(json_list<uint64_t>({offset, offset + size}));
      text += '}';
      offset += size;
    }
  } catch (const Json::exception& error) {
    throw Error("a name or metadata is no valid UTF-8: ", error.what());
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  require(text.size() <= kMostHeader, "the header has ", text.size(), " bytes, more than ",
          kMostHeader);
  return text;
}

}  // namespace

TensorFile read_safetensors(const std::string& path) {
  const InputFile file(path);
  try {
    return read(file);
  } catch (const Error& error) {
    throw Error(path, ": ", error.what());
  }
}

void write_safetensors(const std::string& path, const TensorFile& file) {
  const std::vector<const NamedTensor*> tensors = in_file_order(file);
  std::string header;
  try {
    header = make_header(tensors, file.metadata);
  } catch (const Error& error) {
    throw Error("cannot write ", path, ": ", error.what());
  }
  const uint64_t length = header.size();
  std::vector<std::span<const std::byte>> parts = {std::as_bytes(std::span(&length, 1)),
                                                   std::as_bytes(std::span(header))};
  for (const NamedTensor* tensor : tensors) parts.emplace_back(tensor->bytes);
  write_atomically(path, parts);
}

}  // namespace mbconv::io
