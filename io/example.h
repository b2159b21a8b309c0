#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace mbconv::io {

using Bytes = std::span<const std::byte>;

// The value of one feature of a tf.train.Example. Byte strings refer to the parsed record. A
// feature without a list is an empty list of byte strings.
using Feature = std::variant<std::vector<Bytes>, std::vector<float>, std::vector<int64_t>>;

// Parses a serialised tf.train.Example (recipe: Example{features=1}, Features{feature=1: map
// {key=1, value=2}}, Feature{bytes_list=1, float_list=2, int64_list=3}, lists {value=1}, numbers
// packed or not; unknown fields are skipped, groups are not accepted). As in protobuf, the last of
// equal keys wins. Throws Error on malformed input, with the byte position in the record.
std::map<std::string, Feature, std::less<>> parse_example(Bytes record);

// Serialises an Example with keys in sorted order, numbers packed: the inverse of parse_example.
std::vector<std::byte> make_example(const std::map<std::string, Feature, std::less<>>& features);

// Which keys hold the image and its label, and what to subtract from a stored label.
struct ExampleKeys {
  std::string image;                    // empty: recognise "image" or "image/encoded"
  std::string label;                    // empty: recognise "label" or "image/class/label"
  std::optional<int64_t> label_offset;  // none: 1 for the key "image/class/label", 0 for any other
};

struct LabelledImage {
  Bytes encoded;         // within the record
  int64_t label;         // from 0, the offset subtracted
  int64_t label_offset;  // what was subtracted
};

// Finds image and label in a record. Throws Error naming the key that is missing, ambiguous, of the
// wrong type or not of one value, and the keys that are there; or a label below the offset.
LabelledImage parse_labelled_image(Bytes record, const ExampleKeys& keys);

}  // namespace mbconv::io
