#include "lib/error.h"

#include <cstdio>

namespace mbconv {

void MessagePart::append_to(std::string& message) const {
  switch (kind_) {
    case Kind::text:
      message += text_;
      break;
    case Kind::integer:
      message += std::to_string(integer_);
      break;
    case Kind::natural:
      message += std::to_string(static_cast<uint64_t>(integer_));
      break;
    case Kind::real: {
      char digits[32];
      std::snprintf(digits, sizeof digits, "%g", real_);
      message += digits;
      break;
    }
  }
}

std::string Error::join(std::initializer_list<MessagePart> parts) {
  std::string message;
  for (const MessagePart& part : parts) part.append_to(message);
  return message;
}

}  // namespace mbconv
