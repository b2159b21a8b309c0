#pragma once

#include <cstddef>
#include <span>

#include "io/file.h"

namespace mbconv::io {

// Whether a file that starts with `head` looks like gzip (1f 8b) or zlib (its header check).
bool looks_compressed(std::span<const std::byte> head);

// Inflates a gzip file (of one or more members) or a zlib file into an unlinked temporary file in
// TMPDIR, or /tmp. Throws Error without the name of the file: damaged or truncated data, a full
// disk.
InputFile inflate_to_temporary(const InputFile& compressed);

}  // namespace mbconv::io
