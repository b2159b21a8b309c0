#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace mbconv::test {

// Compares a gradient with central differences of `loss`, a function without arguments that reads
// `x`: all in double, so that the differences are good to about 1e-9 of the loss's terms.
template <class Loss>
void check_gradient(const char* what, std::vector<double>& x, const std::vector<double>& gradient,
                    const Loss& loss) {
  constexpr double kStep = 1e-5, kTolerance = 1e-7;
  REQUIRE(x.size() == gradient.size());
  double scale = 1e-30;
  for (const double g : gradient) scale = std::max(scale, std::abs(g));
  CHECK_MESSAGE(scale > 1e-6, std::string(what), ": the gradient is all but zero");
  double worst = -1;
  size_t worst_index = 0;
  double worst_numeric = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double centre = x[i];
    x[i] = centre + kStep;
    const double above = loss();
    x[i] = centre - kStep;
    const double below = loss();
    x[i] = centre;
    const double numeric = (above - below) / (2 * kStep);
    const double error = std::abs(numeric - gradient[i]) / scale;
    if (error <= worst) continue;
    worst = error;
    worst_index = i;
    worst_numeric = numeric;
    if (std::isnan(error)) break;
  }
  CHECK_MESSAGE(worst <= kTolerance, std::string(what), ": gradient of element ", worst_index,
                " is ", gradient[worst_index], ", central difference ", worst_numeric);
}

// The loss of the gradient tests: a fixed random direction times the outputs.
inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace mbconv::test
