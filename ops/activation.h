#pragma once

#include <string>
#include <string_view>

#include "lib/tensor.h"

namespace mbconv::ops {

// f(z) of the network, element by element of [N,H,W,C], by its usual name. leaky_relu has slope 0.1
// below zero; swish is z sigmoid(z) (Ramachandran et al. 2017).
enum class Activation { linear, swish, relu, relu6, leaky_relu, sigmoid };

inline constexpr Activation kActivations[] = {Activation::linear,     Activation::swish,
                                              Activation::relu,       Activation::relu6,
                                              Activation::leaky_relu, Activation::sigmoid};

// Whether f(0) = 0, so that padding lanes stay zero.
MBCONV_INLINE constexpr bool keeps_zero(Activation activation) {
  return activation != Activation::sigmoid;
}

std::string_view name(Activation activation);

// Throws Error with the list of names if there is no such activation.
Activation parse_activation(std::string_view name);

// "linear, swish, ..."
std::string activation_names();

}  // namespace mbconv::ops
