#include "ops/batch_norm.h"

#include <algorithm>
#include <cmath>

#include "lib/error.h"

namespace mbconv::ops {
namespace {

// Adds values [begin, end) of all slots, [2][channels] each, to the first, in ascending order.
void add_slots(const ChannelSums& sums, int begin, int end) {
  for (int s = 1; s < sums.slots; ++s) {
    const double* slot = sums.slot(s);
    for (int i = begin; i < end; ++i) sums.data[i] += slot[i];
  }
}

void fold(const BatchNorm& bn, int channel, double mean, double var, double eps) {
  const double invstd = 1.0 / std::sqrt(var + eps);
  const double scale = bn.gamma[channel] * invstd;
  bn.mean[channel] = static_cast<float>(mean);
  bn.invstd[channel] = static_cast<float>(invstd);
  bn.scale[channel] = static_cast<float>(scale);
  bn.shift[channel] = static_cast<float>(bn.beta[channel] - mean * scale);
}

float moving(float running, double batch, double momentum) {
  return static_cast<float>(momentum * running + (1.0 - momentum) * batch);
}

}  // namespace

ChannelSums sum_slots(Workers& workers, const ChannelSums& sums) {
  if (sums.slots == 1) return sums;
  // Smaller sums are the caller's alone: beside a busy process, each run may wait for a thread that
  // has lost its CPU. (2 MiB: 0.2 ms at 10 GB/s.)
  constexpr int kValues = kLane, kItemValues = 1 << 18;
  const int values = std::max(kValues, round_up(kItemValues / sums.slots, kValues));
  const int all = 2 * sums.channels;
  workers.run(ceil_div(all, values), [&](int item, int) {
    add_slots(sums, item * values, std::min((item + 1) * values, all));
  });
  return {sums.data, 1, sums.channels};
}

bool batch_norm_forward(const BatchNorm& bn, const ChannelSums& sums, const float* pivot,
                        int64_t count, const BatchNormOptions& options, bool update_running) {
  constexpr double kTrusted = 1e3;
  const double n = static_cast<double>(count);
  add_slots(sums, 0, 2 * sums.channels);
  const auto shifted_mean = [&](int c) { return sums.data[c] / n; };
  const auto variance = [&](int c) {
    return std::max(0.0, sums.data[sums.channels + c] / n - shifted_mean(c) * shifted_mean(c));
  };
  bool trusted = true;
  for (int c = 0; c < bn.channels; ++c) {
    const double m = shifted_mean(c);
    if (m * m > kTrusted * (variance(c) + options.eps)) trusted = false;
  }
  for (int c = 0; c < bn.channels; ++c) {
    const double mean = pivot[c] + shifted_mean(c);
    if (!trusted) {
      bn.mean[c] = static_cast<float>(mean);
      continue;
    }
    fold(bn, c, mean, variance(c), options.eps);
    if (!update_running) continue;
    const double unbiased = variance(c) * n / std::max(n - 1.0, 1.0);
    bn.running_mean[c] = moving(bn.running_mean[c], mean, options.momentum);
    bn.running_var[c] = moving(bn.running_var[c], unbiased, options.momentum);
  }
  return trusted;
}

void batch_norm_inference(const BatchNorm& bn, const BatchNormOptions& options) {
  for (int c = 0; c < bn.channels; ++c) {
    fold(bn, c, bn.running_mean[c], bn.running_var[c], options.eps);
  }
}

void batch_norm_backward(const BatchNorm& bn, const ChannelSums& sums, int64_t count) {
  const double n = static_cast<double>(count);
  add_slots(sums, 0, 2 * sums.channels);
  for (int c = 0; c < bn.channels; ++c) {
    const double sum = sums.data[c];
    const double sum_xhat = sums.data[sums.channels + c];
    const double a = double{bn.gamma[c]} * bn.invstd[c];
    bn.a[c] = static_cast<float>(a);
    bn.b[c] = static_cast<float>(a * sum / n);
    bn.d[c] = static_cast<float>(a * bn.invstd[c] * sum_xhat / n);
    bn.dgamma[c] += static_cast<float>(sum_xhat);
    bn.dbeta[c] += static_cast<float>(sum);
  }
}

void channel_sums(Workers& workers, View<const float> y, const RowCut& cut, const float* pivot,
                  const ChannelSums& sums) {
  const Shape& shape = y.shape;
  require(cut.items() == sums.slots, "channel_sums: ", cut.items(), " items, ", sums.slots,
          " slots");
  std::fill_n(sums.data, ChannelSums::size(sums.slots, sums.channels), 0.0);
  workers.run(cut.items(), [&](int item, int) {
    double* first = sums.slot(item);
    double* second = first + sums.channels;
    const RowCut::Range rows = cut.item(item, shape.n, shape.pixels());
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int n = static_cast<int>(row / shape.pixels());
      const int p = static_cast<int>(row % shape.pixels());
      for (int c = 0; c < shape.c; ++c) {
        const double v = double{y.pixel(n, c / shape.block, p)[c % shape.block]} - pivot[c];
        first[c] += v;
        second[c] += v * v;
      }
    }
  });
}

}  // namespace mbconv::ops
