#include "ops/activation.h"

#include "lib/error.h"

namespace mbconv::ops {

std::string_view name(Activation activation) {
  switch (activation) {
    case Activation::linear:
      return "linear";
    case Activation::swish:
      return "swish";
    case Activation::relu:
      return "relu";
    case Activation::relu6:
      return "relu6";
    case Activation::leaky_relu:
      return "leaky_relu";
    case Activation::sigmoid:
      return "sigmoid";
  }
  return "unknown";
}

Activation parse_activation(std::string_view wanted) {
  for (const Activation a : kActivations) {
    if (name(a) == wanted) return a;
  }
  throw Error("unknown activation '", wanted, "'; expected one of ", activation_names());
}

std::string activation_names() {
  std::string names;
  for (const Activation a : kActivations) {
    if (!names.empty()) names += ", ";
    names += name(a);
  }
  return names;
}

}  // namespace mbconv::ops
