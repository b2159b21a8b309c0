#include "io/match_files.h"

#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <sstream>

#include "io/file.h"
#include "lib/error.h"

namespace mbconv::io {
namespace {

// A folder that cannot be read stops the search, as its files would be missed in silence; one that
// does not exist just holds no match.
int stop_unless_missing(const char*, int error) {
  return error == ENOENT ? 0 : 1;
}

void append_matches(const std::string& pattern, std::vector<std::string>& paths) {
  struct stat info {};
  if (stat(pattern.c_str(), &info) == 0) {
    paths.push_back(pattern);
    return;
  }
  glob_t found{};
  const int result = glob(pattern.c_str(), GLOB_TILDE, stop_unless_missing, &found);
  const std::unique_ptr<glob_t, decltype(&globfree)> guard(&found, globfree);
  require(result != GLOB_NOMATCH, "no file matches '", pattern, "'");
  require(result != GLOB_ABORTED, "cannot match '", pattern, "': a folder cannot be read");
  require(result == 0, "cannot match '", pattern, "': out of memory");
  paths.insert(paths.end(), found.gl_pathv, found.gl_pathv + found.gl_pathc);
}

void check_readable(const std::string& path, const std::string& pattern) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || access(path.c_str(), R_OK) != 0) {
    throw Error(path, " (of '", pattern, "'): cannot be read: ", system_reason(errno));
  }
  require(!S_ISDIR(info.st_mode), path, " (of '", pattern, "'): is a folder, expected a file");
}

}  // namespace

std::vector<std::string> match_files(const std::string& pattern) {
  std::vector<std::string> paths;
  std::istringstream patterns(pattern);
  for (std::string one; std::getline(patterns, one, ',');) append_matches(one, paths);
  require(!paths.empty(), "no file matches '", pattern, "'");
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  for (const std::string& path : paths) check_readable(path, pattern);
  return paths;
}

}  // namespace mbconv::io
