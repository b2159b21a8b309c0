#pragma once

#include <string>

#include "lib/named_tensor.h"

namespace mbconv::io {

// Reads a safetensors file: u64 header length, JSON {name: {dtype, shape, data_offsets}} with
// "__metadata__", then raw little-endian data without holes. F32, F64 and I64 tensors; F16 and BF16
// are widened to F32. Tensors come in the order of their data. Throws Error naming the file and
// what is wrong with it.
TensorFile read_safetensors(const std::string& path);

// Writes the file through write_atomically. Tensors of 8-byte elements come first, else the order
// is kept: so each is aligned to its elements in the file, which some readers need. Throws Error on
// equal or reserved names, a shape that does not fit the bytes, text that is not UTF-8.
void write_safetensors(const std::string& path, const TensorFile& file);

}  // namespace mbconv::io
