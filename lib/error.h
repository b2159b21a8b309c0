#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace mbconv {

// A part of a message: text or a number, written as a stream would, but for integers of eight bits,
// which are numbers here. It holds no memory, and a header with streams would take longer to
// compile than most files that throw.
class MessagePart {
 public:
  MessagePart(std::string_view text) : text_(text) {}
  MessagePart(const char* text) : text_(text) {}
  template <std::same_as<char> T>
  MessagePart(const T& text) : text_(&text, 1) {}
  template <std::integral T>
  requires(!std::same_as<T, char>) MessagePart(T value)
      : kind_(std::is_signed_v<T> ? Kind::integer : Kind::natural),
        integer_(static_cast<int64_t>(value)) {}
  template <std::floating_point T>
  MessagePart(T value) : kind_(Kind::real), real_(static_cast<double>(value)) {}

  void append_to(std::string& message) const;

 private:
  enum class Kind { text, integer, natural, real };
  std::string_view text_;
  Kind kind_ = Kind::text;
  int64_t integer_ = 0;
  double real_ = 0;
};

// The one exception type of the library: a mistake of the caller (shape, option, file) or damaged
// data. what() names the value and what was expected. Error("width must be > 0, got ", w) joins its
// arguments as a stream would.
class Error : public std::runtime_error {
 public:
  template <class... Parts>
  explicit Error(const Parts&... parts) : std::runtime_error(join({MessagePart(parts)...})) {}

 private:
  static std::string join(std::initializer_list<MessagePart> parts);
};

// Throws Error(message parts) unless `condition` holds: for what a caller can get wrong.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) throw Error(parts...);
}

}  // namespace mbconv
