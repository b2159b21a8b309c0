#include "io/safetensors.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "io/atomic_file.h"
#include "io/wire.h"
#include "test/io_support.h"

using namespace mbconv;
using namespace mbconv::io;
using namespace mbconv::io_test;

namespace {

template <class T>
NamedTensor tensor(std::string name, Dtype dtype, std::vector<int64_t> shape,
                   const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {std::move(name), dtype, std::move(shape), {bytes.begin(), bytes.end()}};
}

template <class T>
std::vector<T> values(const TensorFile& file, const std::string& name) {
  const NamedTensor* found = file.find(name);
  REQUIRE_MESSAGE(found != nullptr, name);
  REQUIRE(found->bytes.size() == static_cast<size_t>(found->count()) * sizeof(T));
  return {found->values<T>(), found->values<T>() + found->count()};
}

std::vector<uint32_t> float_bits(const TensorFile& file, const std::string& name) {
  REQUIRE(file.find(name) != nullptr);
  CHECK(file.find(name)->dtype == Dtype::f32);
  return values<uint32_t>(file, name);
}

// A file of the given header and so many zero bytes of data.
std::vector<std::byte> file_of(const std::string& header, size_t data) {
  std::vector<std::byte> out;
  wire::put<uint64_t>(out, header.size());
  const std::vector<std::byte> text = to_bytes(header);
  out.insert(out.end(), text.begin(), text.end());
  out.resize(out.size() + data);
  return out;
}

std::string read_error(const std::vector<std::byte>& bytes) {
  const ScratchFolder folder;
  write_file(folder / "x.safetensors", bytes);
  const std::string message = error_of([&] { read_safetensors(folder / "x.safetensors"); });
  check_names(message, folder / "x.safetensors");
  return message;
}

std::string header_error(const std::string& header, size_t data) {
  return read_error(file_of(header, data));
}

const std::string kA = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";

}  // namespace

TEST_CASE("safetensors: what the safetensors package wrote is read, order, scalar and metadata") {
  const TensorFile file = read_safetensors("test/data/io/tensors.safetensors");
  std::vector<std::string> names;
  for (const NamedTensor& t : file.tensors) names.push_back(t.name);
  CHECK(names == std::vector<std::string>{"bn.num_batches_tracked", "labels", "double",
                                          "conv.weight", "empty", "brain", "half"});
  CHECK(file.metadata ==
        std::map<std::string, std::string>{{"format", "pt"}, {"note", "quotes \" and \u00e9"}});
  const NamedTensor* scalar = file.find("bn.num_batches_tracked");
  CHECK(scalar->shape.empty());
  CHECK(scalar->dtype == Dtype::i64);
  CHECK(values<int64_t>(file, scalar->name) == std::vector<int64_t>{-12345678901});
  CHECK(values<int64_t>(file, "labels") == std::vector<int64_t>{0, -1, int64_t{1} << 62});
  CHECK(values<double>(file, "double") == std::vector<double>{std::numbers::pi, -1e300});
  CHECK(file.find("double")->shape == std::vector<int64_t>{2, 1});
  const std::vector<float> weight = values<float>(file, "conv.weight");
  CHECK(file.find("conv.weight")->shape == std::vector<int64_t>{2, 3, 2, 2});
  for (size_t i = 0; i < 24; ++i) CHECK(weight[i] == static_cast<float>(i) / 8 - 1);
  CHECK(file.find("empty")->shape == std::vector<int64_t>{0, 4});
  CHECK(file.find("empty")->bytes.empty());
}

TEST_CASE("safetensors: F16 and BF16 are widened exactly, subnormals, infinities and NaN too") {
  const TensorFile file = read_safetensors("test/data/io/tensors.safetensors");
  const auto bits = [](float f) { return std::bit_cast<uint32_t>(f); };
  constexpr float kInf = std::numeric_limits<float>::infinity();
  CHECK(file.find("half")->shape == std::vector<int64_t>{3, 4});
  CHECK(float_bits(file, "half") ==
        std::vector<uint32_t>{bits(0.0f), bits(-0.0f), bits(1.0f), bits(-2.0f), bits(65504.0f),
                              bits(0x1p-14f), bits(0x1p-24f), bits(-1023 * 0x1p-24f), bits(kInf),
                              bits(-kInf), 0x7FC00000, bits(0.333251953125f)});
  CHECK(float_bits(file, "brain") == std::vector<uint32_t>{bits(0.0f), bits(-0.0f), bits(1.0f),
                                                           bits(-3.0f), 0x7F7F0000, 0x00010000,
                                                           bits(kInf), 0x7FC00000});
}

TEST_CASE("safetensors: what is written is read back, 8-byte elements first and aligned") {
  const ScratchFolder folder;
  TensorFile file;
  file.metadata = {{"step", "12"}, {"b", "\n"}};
  file.tensors.push_back(tensor<float>("z", Dtype::f32, {3}, {1.5f, -2, 3}));
  file.tensors.push_back(tensor<int64_t>("count", Dtype::i64, {}, {-7}));
  file.tensors.push_back(tensor<float>("a", Dtype::f32, {1, 2}, {4, 5}));
  file.tensors.push_back(tensor<double>("loss", Dtype::f64, {2}, {0.1, 1e-300}));
  file.tensors.push_back(tensor<float>("none", Dtype::f32, {0}, {}));
  write_safetensors(folder / "x", file);
  CHECK(folder.files() == 1);

  const TensorFile back = read_safetensors(folder / "x");
  CHECK(back.metadata == file.metadata);
  std::vector<std::string> names;
  for (const NamedTensor& t : back.tensors) names.push_back(t.name);
  CHECK(names == std::vector<std::string>{"count", "loss", "z", "a", "none"});
  for (const NamedTensor& t : file.tensors) {
    const NamedTensor* b = back.find(t.name);
    CHECK(b->dtype == t.dtype);
    CHECK(b->shape == t.shape);
    CHECK(b->bytes == t.bytes);
  }
  const std::vector<std::byte> bytes = read_file(folder / "x");
  const auto header = wire::load<uint64_t>(bytes.data());
  CHECK(header % 8 == 0);
  CHECK(bytes.size() == 8 + header + 8 + 16 + 12 + 8);
  CHECK(bytes[8] == std::byte{'{'});
}

TEST_CASE("safetensors: a file without tensors is written and read") {
  const ScratchFolder folder;
  write_safetensors(folder / "x", {});
  CHECK(read_safetensors(folder / "x").tensors.empty());
  CHECK(to_text(read_file(folder / "x")).substr(8) == "{}      ");
}

TEST_CASE("safetensors: what cannot be written is refused before the file is touched") {
  const ScratchFolder folder;
  write_file(folder / "x", to_bytes("old"));
  const auto error = [&](std::vector<NamedTensor> tensors,
                         std::map<std::string, std::string> metadata = {}) {
    return error_of([&] {
      write_safetensors(folder / "x", TensorFile{std::move(tensors), std::move(metadata)});
    });
  };
  const NamedTensor a = tensor<float>("a", Dtype::f32, {1}, {1});
  check_names(error({a, a}), folder / "x", "'a'", "twice");
  check_names(error({tensor<float>("__metadata__", Dtype::f32, {1}, {1})}), "reserved");
  check_names(error({tensor<float>("b", Dtype::f32, {3}, {1, 2})}), "'b'", "8 bytes", "shape");
  check_names(error({tensor<float>("b", Dtype::f32, {-1}, {1, 2})}), "'b'", "shape");
  check_names(error({tensor<float>("b\xff", Dtype::f32, {1}, {1})}), "UTF-8");
  check_names(error({a}, {{"k", "\xff"}}), "UTF-8");
  CHECK(to_text(read_file(folder / "x")) == "old");
}

TEST_CASE("safetensors: header length against the file and the limit of 100 MB") {
  check_names(read_error(to_bytes("1234567")), "truncated", "7 bytes");
  check_names(read_error(to_bytes(std::string(8, '\xff'))), "no safetensors file",
              "18446744073709551615 bytes");
  std::vector<std::byte> over;
  wire::put<uint64_t>(over, 100'000'001);
  check_names(read_error(over), "100000001", "more than 100000000");
  std::vector<std::byte> cut = file_of("{" + kA + "}", 8);
  cut.resize(30);
  check_names(read_error(cut), "truncated", "header", "the file 30");
}

TEST_CASE("safetensors: a header that is no JSON, no object, nested or not UTF-8") {
  check_names(header_error("{\"a\":", 0), "no valid JSON");
  check_names(header_error("", 0), "no valid JSON");
  check_names(header_error("[]", 0), "no JSON object");
  check_names(header_error("{\"a\xff\":{}}", 0), "no valid JSON");
  check_names(header_error(std::string(100000, '['), 0), "nested too deeply");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  check_names(header_error(objects, 0), "nested too deeply");
}

TEST_CASE("safetensors: equal names are refused at every level") {
  check_names(header_error("{" + kA + "," + kA + "}", 8), "'a' twice");
  check_names(
      header_error(R"({"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})", 8),
      "'shape' twice");
  check_names(header_error(R"({"__metadata__":{"k":"1","k":"2"}})", 0), "'k' twice");
}

TEST_CASE("safetensors: every fault of an entry names the tensor") {
  const auto error = [](const std::string& entry) {
    const std::string message = header_error("{\"t\":" + entry + "}", 8);
    check_names(message, "tensor 't'");
    return message;
  };
  check_names(error("3"), "no JSON object");
  check_names(error(R"({"shape":[2],"data_offsets":[0,8]})"), "no dtype");
  check_names(error(R"({"dtype":"F32","data_offsets":[0,8]})"), "no shape");
  check_names(error(R"({"dtype":"F32","shape":[2]})"), "no data_offsets");
  check_names(error(R"({"dtype":"I32","shape":[2],"data_offsets":[0,8]})"), "\"I32\"",
              "expected F32");
  check_names(error(R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})"), "dtype 7");
  check_names(error(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"), "shape is no list");
  check_names(error(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), "shape", "no size");
  check_names(error(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), "shape", "no size");
  check_names(error(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]})"),
              "shape", "no size");
  check_names(error(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"), "shape",
              "does not fit its 8 bytes");
  // 2^62 * 4 elements of 4 bytes: twice a product that wraps around to 0.
  check_names(error(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]})"),
              "does not fit");
  check_names(error(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})"),
              "does not fit");
  check_names(error(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"), "data_offsets");
  check_names(error(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), "data_offsets");
  check_names(error(R"({"dtype":"F32","shape":[2],"data_offsets":[0,-8]})"), "data_offsets");
}

TEST_CASE("safetensors: holes, overlaps, missing and trailing data are told apart") {
  const auto b = [](int begin, int end) {
    return R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[)" + std::to_string(begin) + "," +
           std::to_string(end) + "]}}";
  };
  check_names(header_error("{" + kA + b(12, 16), 16), "'b'", "byte 12", "hole", "ends at 8");
  check_names(header_error("{" + kA + b(4, 8), 8), "'b'", "byte 4", "overlapping", "ends at 8");
  check_names(header_error("{" + kA + b(8, 12), 11), "truncated", "need 12", "has 11");
  check_names(header_error("{" + kA + b(8, 12), 13), "need 12", "has 13");
  check_names(header_error(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8), "hole");
  check_names(header_error("{}", 1), "need 0", "has 1");
}

TEST_CASE("safetensors: metadata that are no strings are refused") {
  check_names(header_error(R"({"__metadata__":{"k":1}})", 0), "__metadata__", "'k'");
  check_names(header_error(R"({"__metadata__":"x"})", 0), "__metadata__");
}

TEST_CASE("safetensors: a damaged file gives tensors that fit their shapes, or an error") {
  const ScratchFolder folder;
  TensorFile file;
  file.metadata = {{"k", "v"}};
  file.tensors.push_back(tensor<float>("a", Dtype::f32, {2, 1}, {1, 2}));
  file.tensors.push_back(tensor<int64_t>("b", Dtype::i64, {}, {3}));
  write_safetensors(folder / "valid", file);
  const std::vector<std::byte> valid = read_file(folder / "valid");
  int refused = 0;
  for_each_damage(valid, [&](const std::vector<std::byte>& damaged, const std::string& how) {
    INFO(how);
    write_file(folder / "x", damaged);
    try {
      const TensorFile back = read_safetensors(folder / "x");
      CHECK(damaged.size() == valid.size());
      for (const NamedTensor& t : back.tensors) {
        CHECK(t.bytes.size() == static_cast<size_t>(t.count()) * size_of(t.dtype));
      }
    } catch (const Error&) {
      ++refused;
    }
  });
  CHECK(refused > 200);
}

TEST_CASE("atomic file: parts follow each other, the old file is replaced, nothing else is left") {
  const ScratchFolder folder;
  write_file(folder / "x", to_bytes("old and longer"));
  const std::vector<std::byte> a = to_bytes("one "), b = to_bytes("two");
  const std::vector<std::span<const std::byte>> parts = {a, {}, b};
  write_atomically(folder / "x", parts);
  CHECK(to_text(read_file(folder / "x")) == "one two");
  CHECK(folder.files() == 1);
}

TEST_CASE("atomic file: a failing write leaves the old file and no temporary one") {
  const ScratchFolder folder;
  write_file(folder / "x", to_bytes("old"));
  const std::vector<std::byte> large(100000);
  const std::vector<std::span<const std::byte>> parts = {large};
  {
    const Limit limit(RLIMIT_FSIZE, 5000);
    check_names(error_of([&] { write_atomically(folder / "x", parts); }), folder / "x",
                "File too large");
  }
  CHECK(to_text(read_file(folder / "x")) == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("atomic file: a folder that is missing, no folder or not writable is named") {
  const ScratchFolder folder;
  const auto error = [](const std::string& path) {
    return error_of([&] { write_atomically(path, {}); });
  };
  check_names(error(folder / "none/x"), folder / "none/x", "No such file or directory");
  write_file(folder / "file", {});
  check_names(error(folder / "file/x"), folder / "file/x", "Not a directory");
  std::filesystem::create_directory(folder / "sub");
  check_names(error(folder / "sub"), folder / "sub", "not a regular file");
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  check_names(error(folder / "pipe"), folder / "pipe", "not a regular file");

  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_read |
                                                  std::filesystem::perms::others_read |
                                                  std::filesystem::perms::others_exec);
  const bool root = geteuid() == 0;  // to whom everything is writable
  if (root) REQUIRE(seteuid(65534) == 0);
  const std::string message = error(folder / "x");
  if (root) REQUIRE(seteuid(0) == 0);
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_all);
  check_names(message, "cannot write", folder / "x", "Permission denied");
}

TEST_CASE(
    "atomic file: a temporary file of a killed writer is overwritten, of a live one refused") {
  const ScratchFolder folder;
  write_file(folder / "x.tmp", to_bytes("left by a killed process, and longer than the new file"));
  {
    AtomicFile first(folder / "x");
    first.write(to_bytes("first"));
    check_names(error_of([&] { AtomicFile second(folder / "x"); }), folder / "x", "another writer");
    first.commit();
  }
  CHECK(to_text(read_file(folder / "x")) == "first");
  CHECK(folder.files() == 1);
  write_atomically(folder / "x", {});
  CHECK(read_file(folder / "x").empty());
}

TEST_CASE("atomic file: nothing can be written after the commit") {
  const ScratchFolder folder;
  AtomicFile file(folder / "x");
  file.commit();
  check_names(error_of([&] { file.write(to_bytes("more")); }), folder / "x", "complete");
  check_names(error_of([&] { file.commit(); }), folder / "x", "complete");
}
