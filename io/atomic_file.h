#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace mbconv::io {

// Writes `parts` one after the other to a temporary name in the same folder, syncs, renames over
// `path`, and syncs the folder: a reader or a crash sees the old file or the new one, whole. On
// failure the old file is as it was, the temporary one is removed, and Error names path and reason.
void write_atomically(const std::string& path, std::span<const std::span<const std::byte>> parts);

}  // namespace mbconv::io
