#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace mbconv {

// The one exception type of the library: a mistake of the caller (shape, option, file) or damaged
// data. what() names the value and what was expected. Error("width must be > 0, got ", w) joins its
// arguments as a stream would.
class Error : public std::runtime_error {
 public:
  template <class... Parts>
  explicit Error(const Parts&... parts) : std::runtime_error(join(parts...)) {}

 private:
  template <class... Parts>
  static std::string join(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
  }
};

// Throws Error(message parts) unless `condition` holds: for what a caller can get wrong.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) throw Error(parts...);
}

}  // namespace mbconv
