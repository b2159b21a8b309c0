#pragma once

#include <string>
#include <vector>

namespace mbconv::io {

// The files that match `pattern`, sorted by name, each once. The pattern is a glob with "~" for the
// home folder, or several joined by commas ("?" matches a comma in a name); one that is the name of
// a file stands for it. Throws Error naming the pattern if it matches nothing, or the match that is
// a folder or unreadable.
std::vector<std::string> match_files(const std::string& pattern);

}  // namespace mbconv::io
