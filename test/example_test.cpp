#include "io/example.h"

#include <doctest/doctest.h>

#include <initializer_list>
#include <limits>

#include "io/tfrecord.h"
#include "io/wire.h"
#include "lib/error.h"
#include "lib/rng.h"
#include "test/io_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

using Message = std::vector<std::byte>;
using Features = std::map<std::string, Feature, std::less<>>;
using wire::Type;

Message bytes(std::initializer_list<int> values) {
  Message out;
  for (const int v : values) out.push_back(static_cast<std::byte>(v));
  return out;
}

// A length-delimited field.
Message field(uint32_t number, const Message& value) {
  Message out;
  wire::put_bytes(out, number, value);
  return out;
}

Message operator+(Message a, const Message& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Message entry(const std::string& key, const Message& feature) {
  return field(1, field(1, to_bytes(key)) + field(2, feature));
}

// An Example of whose only feature, "k", `list` is the list of type `type` (1 bytes, 2 float, 3
// int).
Message example_of(uint32_t type, const Message& list) {
  return field(1, entry("k", field(type, list)));
}

template <class T>
std::vector<T> values(const Features& features, const std::string& key) {
  const auto found = features.find(key);
  REQUIRE_MESSAGE(found != features.end(), key);
  const auto* list = std::get_if<std::vector<T>>(&found->second);
  REQUIRE_MESSAGE(list != nullptr, key);
  return *list;
}

std::vector<std::string> texts(const Features& features, const std::string& key) {
  std::vector<std::string> out;
  for (const Bytes b : values<Bytes>(features, key)) out.push_back(to_text(b));
  return out;
}

std::vector<int64_t> ints_of(const Message& list) {
  const Message example = example_of(3, list);
  return values<int64_t>(parse_example(example), "k");
}

std::vector<float> floats_of(const Message& list) {
  const Message example = example_of(2, list);
  return values<float>(parse_example(example), "k");
}

std::string parse_error(const Message& record) {
  return error_of([&] { parse_example(record); });
}

std::vector<Message> records_of(const std::string& path) {
  const RecordFile file(path);
  std::vector<Message> records(file.size());
  for (size_t i = 0; i < file.size(); ++i) file.read(i, records[i]);
  return records;
}

// The sides of a PNG, from its header.
std::pair<int, int> png_size(Bytes png) {
  REQUIRE(png.size() > 24);
  CHECK(to_text(png.subspan(1, 3)) == "PNG");
  return {static_cast<int>(png[19]), static_cast<int>(png[23])};
}

const std::vector<int64_t> kExtremes = {
    -1, 0, 1, 127, 128, std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};

}  // namespace

TEST_CASE("example: what TensorFlow wrote is read: bytes, packed numbers, empty lists") {
  const std::vector<Message> records = records_of("test/data/io/plain.tfrecord");
  REQUIRE(records.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    const Features features = parse_example(records[i]);
    CHECK(features.size() == 12);
    const std::vector<Bytes> images = values<Bytes>(features, "image");
    REQUIRE(images.size() == 1);
    CHECK(png_size(images[0]) == std::pair(2 + static_cast<int>(i), 3));
    CHECK(values<int64_t>(features, "width") == std::vector<int64_t>{2 + static_cast<int64_t>(i)});
    CHECK(texts(features, "colorspace") == std::vector<std::string>{"RGB"});
    CHECK(texts(features, "text") == std::vector<std::string>{""});
    CHECK(texts(features, "filename") == std::vector<std::string>{std::to_string(i) + ".png"});
    CHECK(values<int64_t>(features, "extra") == kExtremes);
    const std::vector<float> xmax = {1.0f, -2.5f};
    CHECK(values<float>(features, "bbox_xmax") ==
          std::vector<float>(xmax.begin(), xmax.begin() + static_cast<ptrdiff_t>(i)));
  }
}

TEST_CASE("example: image and label are found in what TensorFlow wrote, in both conventions") {
  const std::vector<Message> own = records_of("test/data/io/plain.tfrecord");
  const int64_t labels[] = {7, 0, 300};
  for (size_t i = 0; i < 3; ++i) {
    const LabelledImage found = parse_labelled_image(own[i], {});
    CHECK(found.label == labels[i]);
    CHECK(png_size(found.encoded) == std::pair(2 + static_cast<int>(i), 3));
  }
  const std::vector<Message> imagenet = records_of("test/data/io/zlib.tfrecord");
  REQUIRE(imagenet.size() == 2);
  CHECK(parse_labelled_image(imagenet[0], {}).label == 0);
  CHECK(parse_labelled_image(imagenet[1], {}).label == 999);
  CHECK(png_size(parse_labelled_image(imagenet[1], {}).encoded) == std::pair(4, 2));
}

TEST_CASE("example: byte strings refer to the record itself") {
  const Message record =
      make_example({{"k", std::vector<Bytes>{std::as_bytes(std::span("abc", 3))}}});
  const Bytes found = values<Bytes>(parse_example(record), "k").at(0);
  CHECK(found.data() >= record.data());
  CHECK(found.data() + found.size() <= record.data() + record.size());
}

TEST_CASE("example: make_example writes what TensorFlow writes") {
  // TensorFlow's deterministic serialisation sorts keys as well.
  for (const Message& record : records_of("test/data/io/plain.tfrecord")) {
    CHECK(make_example(parse_example(record)) == record);
  }
}

TEST_CASE("example: parse_example inverts make_example, empty lists and all") {
  const Message a = to_bytes("a"), none;
  const Features features = {{"", std::vector<float>{}},
                             {"bytes", std::vector<Bytes>{a, none, a}},
                             {"empty bytes", std::vector<Bytes>{}},
                             {"empty ints", std::vector<int64_t>{}},
                             {"floats", std::vector<float>{0.5f, -1e30f}},
                             {"ints", kExtremes}};
  const Message record = make_example(features);
  const Features parsed = parse_example(record);
  REQUIRE(parsed.size() == features.size());
  for (const auto& [key, value] : features) {
    CHECK(parsed.find(key)->second.index() == value.index());
  }
  CHECK(texts(parsed, "bytes") == std::vector<std::string>{"a", "", "a"});
  CHECK(values<float>(parsed, "floats") == std::vector<float>{0.5f, -1e30f});
  CHECK(values<int64_t>(parsed, "ints") == kExtremes);
  CHECK(values<float>(parsed, "").empty());
  CHECK(make_example(parsed) == record);
}

TEST_CASE("example: numbers unpacked, packed and both in one list") {
  const Message one = bytes({0x08, 5}), two = field(1, bytes({6, 0x80, 0x01}));
  CHECK(ints_of(one + one) == std::vector<int64_t>{5, 5});
  CHECK(ints_of(one + two + one) == std::vector<int64_t>{5, 6, 128, 5});
  const Message float_one = bytes({0x0D, 0, 0, 0x80, 0x3F});
  const Message float_two = field(1, bytes({0, 0, 0, 0x40, 0, 0, 0, 0xBF}));
  CHECK(floats_of(float_one + float_two) == std::vector<float>{1.0f, 2.0f, -0.5f});
}

TEST_CASE(
    "example: negative integers are varints of 10 bytes, longer or larger ones are malformed") {
  Message minus_one = bytes({0x08});
  for (int i = 0; i < 9; ++i) minus_one.push_back(std::byte{0xFF});
  Message over = minus_one, eleven = minus_one;
  minus_one.push_back(std::byte{0x01});
  CHECK(ints_of(minus_one) == std::vector<int64_t>{-1});
  over.push_back(std::byte{0x02});
  check_names(parse_error(example_of(3, over)), "more than 64 bits", "at byte 12");
  eleven = eleven + bytes({0x80, 0x01});
  check_names(parse_error(example_of(3, eleven)), "more than 64 bits");
}

TEST_CASE("example: unknown fields of wire types 0, 1, 2 and 5 are skipped at every level") {
  const Message unknown = bytes({0x78, 0x96, 0x01}) + bytes({0x79, 1, 2, 3, 4, 5, 6, 7, 8}) +
                          bytes({0x7A, 2, 9, 9}) + bytes({0x7D, 1, 2, 3, 4});
  const Message list = unknown + bytes({0x08, 5}) + unknown;
  const Message feature = unknown + field(3, list) + unknown;
  const Message item = unknown + field(1, to_bytes("k")) + unknown + field(2, feature) + unknown;
  const Message record = unknown + field(1, unknown + field(1, item) + unknown) + unknown;
  CHECK(values<int64_t>(parse_example(record), "k") == std::vector<int64_t>{5});
}

TEST_CASE("example: a known field of an unexpected wire type is skipped as protobuf does") {
  CHECK(ints_of(bytes({0x0D, 1, 2, 3, 4}) + bytes({0x08, 5})) == std::vector<int64_t>{5});
  CHECK(floats_of(bytes({0x08, 5})).empty());
}

TEST_CASE("example: groups, field number 0 and unknown wire types are malformed, with position") {
  check_names(parse_error(bytes({0x0B, 0x0C})), "byte 0", "field 1 is a group");
  check_names(parse_error(bytes({0x78, 0, 0x0C})), "byte 2", "group");
  check_names(parse_error(bytes({0x02, 0})), "byte 0", "field number 0");
  check_names(parse_error(bytes({0x0E})), "wire type 6");
  check_names(parse_error(bytes({0x80, 0x80, 0x80, 0x80, 0x10, 0})), "field number");
}

TEST_CASE("example: the last of equal keys wins") {
  const Message five = field(3, bytes({0x08, 5})), text = field(1, field(1, to_bytes("x")));
  const Message record = field(1, entry("k", five) + entry("j", five)) + field(1, entry("k", text));
  const Features features = parse_example(record);
  CHECK(features.size() == 2);
  CHECK(texts(features, "k") == std::vector<std::string>{"x"});
}

TEST_CASE(
    "example: a value given twice merges lists of one type, and keeps the last of two types") {
  const Message five = field(3, bytes({0x08, 5})), six = field(3, bytes({0x08, 6}));
  const Message text = field(1, field(1, to_bytes("x")));
  const auto item = [](const Message& a, const Message& b) {
    return field(1, field(1, field(1, to_bytes("k")) + field(2, a) + field(2, b)));
  };
  const Message merged = item(five, six), replaced = item(text, six);
  CHECK(values<int64_t>(parse_example(merged), "k") == std::vector<int64_t>{5, 6});
  CHECK(values<int64_t>(parse_example(replaced), "k") == std::vector<int64_t>{6});
}

TEST_CASE("example: a length may not pass the message that holds it, though the record is longer") {
  // The inner bytes string claims 5 bytes; its list has 1, the record many.
  const Message list = bytes({0x0A, 5, 'x'});
  const Message record = example_of(1, list) + Message(20);
  check_names(parse_error(record), "a length of 5", "1 more bytes", "at byte");
  Message huge = bytes({0x0A});
  wire::put_varint(huge, UINT64_MAX);
  check_names(parse_error(huge), "a length of 18446744073709551615", "at byte 1");
  check_names(parse_error(example_of(2, field(1, bytes({0, 0, 0})))), "a number runs past the end");
}

TEST_CASE("example: an empty record has no features") {
  CHECK(parse_example({}).empty());
  CHECK(parse_example(field(1, {})).empty());
}

TEST_CASE("labelled image: the user's keys and offset win over recognition") {
  const Message a = to_bytes("A"), b = to_bytes("B");
  const Message record = make_example({{"image", std::vector<Bytes>{a}},
                                       {"image/encoded", std::vector<Bytes>{b}},
                                       {"label", std::vector<int64_t>{10}},
                                       {"image/class/label", std::vector<int64_t>{20}},
                                       {"other", std::vector<int64_t>{30}}});
  const auto label = [&](ExampleKeys keys) {
    keys.image = "image";
    return parse_labelled_image(record, keys).label;
  };
  CHECK(to_text(parse_labelled_image(record, {"image/encoded", "label", {}}).encoded) == "B");
  CHECK(label({"", "label", {}}) == 10);
  CHECK(label({"", "image/class/label", {}}) == 19);
  CHECK(label({"", "other", {}}) == 30);
  CHECK(label({"", "image/class/label", 0}) == 20);
  CHECK(label({"", "label", 4}) == 6);
  CHECK(label({"", "other", -4}) == 34);
}

TEST_CASE("labelled image: missing, ambiguous, wrongly typed and multiple values are named") {
  const Message a = to_bytes("A");
  const std::vector<Bytes> image = {a};
  const std::vector<int64_t> label = {3};
  const auto error = [](const Features& features, const ExampleKeys& keys = {}) {
    const Message record = make_example(features);
    return error_of([&] { parse_labelled_image(record, keys); });
  };
  check_names(error({{"image", image}, {"image/encoded", image}, {"label", label}}), "both keys",
              "'image'", "'image/encoded'");
  check_names(error({{"image", image}, {"label", label}, {"image/class/label", label}}),
              "both keys", "'label'", "'image/class/label'");
  check_names(error({{"picture", image}, {"label", label}}), "no key 'image' or 'image/encoded'",
              "'label', 'picture'");
  check_names(error({{"image", image}, {"class", label}}), "no key 'label' or 'image/class/label'",
              "'class', 'image'");
  check_names(error({{"image", image}, {"label", label}}, {"img", "", {}}), "no key 'img'",
              "'image', 'label'");
  check_names(error({}), "its keys: none");
  check_names(error({{"image", label}, {"label", label}}), "'image'", "type int64",
              "expected bytes");
  check_names(error({{"image", image}, {"label", image}}), "'label'", "type bytes",
              "expected int64");
  check_names(error({{"image", std::vector<Bytes>{a, a}}, {"label", label}}), "'image'", "2 values",
              "expected 1");
  check_names(error({{"image", image}, {"label", std::vector<int64_t>{}}}), "'label'", "0 values");
}

TEST_CASE("labelled image: a label below its offset is an error, at the ends of int64 too") {
  const Message a = to_bytes("A");
  const auto parse = [&](int64_t label, std::optional<int64_t> offset) {
    const Message record = make_example(
        {{"image", std::vector<Bytes>{a}}, {"image/class/label", std::vector<int64_t>{label}}});
    return parse_labelled_image(record, {"", "", offset}).label;
  };
  constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();
  CHECK(parse(1, {}) == 0);
  check_names(error_of([&] { parse(0, {}); }), "'image/class/label'", "label 0", "offset 1");
  CHECK_THROWS_AS(parse(kLeast, {}), Error);
  CHECK_THROWS_AS(parse(std::numeric_limits<int64_t>::max(), kLeast), Error);
}

TEST_CASE("labelled image: odd keys are shown short and without control characters") {
  Features features;
  for (int i = 0; i < 30; ++i) features["key " + std::to_string(100 + i)] = std::vector<float>{};
  features["\x1b[31m" + std::string(1000, 'x')] = std::vector<float>{};
  const Message record = make_example(features);
  const std::string message = error_of([&] { parse_labelled_image(record, {}); });
  check_names(message, "'?[31mxxx", "...'", "and 11 more");
  CHECK(message.size() < 600);
}

TEST_CASE("example: a damaged record is parsed or refused, never read past its end") {
  const Message a = to_bytes("abc");
  const Message valid = make_example({{"image", std::vector<Bytes>{a}},
                                      {"label", std::vector<int64_t>{300, -1}},
                                      {"box", std::vector<float>{0.5f, 2.0f}}});
  int refused = 0;
  for_each_damage(valid, [&](const Message& damaged, const std::string& how) {
    INFO(how);
    // A buffer of the exact size, so that a sanitizer sees the first byte read beyond it.
    const Message exact(damaged.begin(), damaged.end());
    try {
      size_t total = 0;
      for (const auto& [key, value] : parse_example(exact)) {
        total += std::visit([](const auto& list) { return list.size(); }, value);
      }
      CHECK(total <= exact.size());
    } catch (const Error&) {
      ++refused;
    }
  });
  CHECK(refused > 100);
}

TEST_CASE("example: random bytes are parsed or refused") {
  Rng rng(3, 0, 0, Purpose::synthetic);
  int parsed = 0, refused = 0;
  for (int i = 0; i < 50000; ++i) {
    Message record(rng.below(24));
    for (std::byte& b : record) {
      // Mostly bytes that mean something: small lengths and tags of fields 1 to 3.
      b = static_cast<std::byte>(rng.below(4) == 0 ? rng.next() : rng.below(28));
    }
    try {
      parse_example(record);
      ++parsed;
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(parsed > 1000);
  CHECK(refused > 1000);
}
