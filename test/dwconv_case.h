#pragma once

#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <vector>

#include "ops/conv1x1_ref.h"
#include "ops/dwconv.h"
#include "ops/dwconv_ref.h"
#include "ops/pool.h"
#include "test/inputs.h"
#include "test/op_test.h"
#include "test/oracle.h"
#include "test/shapes.h"

namespace mbconv::test {

// The depthwise convolution's forward pass: cases, and a fixture for the titles of op_test.h.

struct DwconvCase {
  std::string name;
  Shape x;
  int ksize, stride;
  Pending pending = {true, ops::Activation::swish};
  bool x_out = false, sums = true;
  ops::DwconvCut cut = {{0, 0, 0}, 0};  // as the op cuts, if no groups
  std::optional<Folded> finish = {};    // with the pool
  int expand_cin = 0;                   // x comes from an expand convolution
};

class DwconvForwardCase {
 public:
  Memory memory;
  ops::DwconvForward args_{};

  DwconvForwardCase(const DwconvCase& c, Values values) {
    Shape y = ops::dwconv_output(c.x, c.stride);
    if (c.finish) y = Shape::nhwc(y.n, y.h, y.w, y.c);
    Inputs in(memory, values, static_cast<uint64_t>(c.x.c * 1000 + c.ksize * 10 + c.stride));
    if (c.expand_cin > 0) {
      args_.x.y.shape = c.x;
      x_ = expanded(in, c);
    } else {
      args_.x = in.deferred(c.x, c.pending);
      x_ = finished(args_.x);
    }
    if (c.x_out) args_.x_out = {memory.output<float>(c.x.size()), c.x};
    args_.w = in.weights(c.ksize * c.ksize, c.x.c);
    args_.y = {memory.output<float>(y.size()), y};
    args_.pivot = in.vector(y, -0.5f, 0.5f);
    args_.ksize = c.ksize;
    args_.stride = c.stride;
    args_.cut = ops::dwconv_forward_cut(c.x, c.ksize, c.stride, c.expand_cin);
    if (c.cut.lines.groups > 0) args_.cut.lines = c.cut.lines;
    if (c.sums) args_.sums = in.sums(args_.cut.lines.items(), y.padded_c());
    if (c.finish) {
      args_.finish = in.finish(y, *c.finish);
      args_.pool_partial = memory.work<double>(ops::pool_partial_size(y, args_.cut.lines, false));
      args_.pooled = memory.output<float>(static_cast<size_t>(y.n * y.padded_c()));
    }

    const Dense<Tracked> w = unpack<Tracked>(args_.w);
    y_ = Dense<Tracked>({y.n, y.pixels(), y.c});
    ops::ref::dwconv_forward({c.x.n, c.x.h, c.x.w, c.x.c, c.ksize, c.stride}, x_.values.data(),
                             w.values.data(), y_.values.data());
    y_ = finished(args_.finish, y_);
    mean_ = pooled(y_);
    sums_ = batch_sums(y_, args_.pivot, args_.cut.lines.items(),
                       slots_of_rows(args_.cut.lines, y, y.h));
  }

  size_t scratch() const { return ops::dwconv_scratch(args_.x.y.shape, args_.ksize); }
  void run(const ops::Context& context) { ops::dwconv_forward(context, args_); }

  void check(double c) const {
    check_close("y", unpack(args_.y), y_, c);
    CHECK_MESSAGE(padding_is_zero(args_.y), "y is not zero in its padding");
    if (args_.x_out) {
      check_close("x_out", unpack(args_.x_out), x_, c);
      CHECK_MESSAGE(padding_is_zero(args_.x_out), "x_out is not zero in its padding");
    }
    const int channels = args_.y.shape.c;
    if (args_.pooled != nullptr) {
      const int images = args_.y.shape.n, padded = args_.y.shape.padded_c();
      // Up to 256 terms of one sign, one after another.
      check_close("pooled", unpack(args_.pooled, images, channels, padded), mean_, 2 * c);
      CHECK_MESSAGE(padding_is_zero(args_.pooled, images, channels, padded),
                    "pooled is not zero in its padding");
    }
    if (!args_.sums) return;
    check_close("sums", unpack(args_.sums, channels), sums_, c);
    CHECK_MESSAGE(padding_is_zero(args_.sums, channels), "sums are not zero in their padding");
  }

 private:
  Dense<Tracked> expanded(Inputs& in, const DwconvCase& c) {
    ops::DwconvExpand& expand = args_.expand;
    expand.v = in.tensor(Shape::nhwc(c.x.n, c.x.h, c.x.w, c.expand_cin), -1, 1);
    expand.w = in.weights(c.expand_cin, c.x.c);
    expand.finish = in.finish(c.x, {c.pending.activation});
    const Dense<Tracked> v = unpack<Tracked>(expand.v), w = unpack<Tracked>(expand.w);
    Dense<Tracked> x({c.x.n, c.x.pixels(), c.x.c});
    ops::ref::conv1x1_forward(static_cast<int>(c.x.rows()), c.expand_cin, c.x.c, v.values.data(),
                              c.expand_cin, w.values.data(), c.x.c, x.values.data(), c.x.c);
    return finished(expand.finish, x);
  }

  Dense<Tracked> x_, y_, sums_, mean_;
};

template <class Body>
void for_each_dwconv(const Body& body) {
  for (const int ksize : {3, 5}) {
    for (const int stride : {1, 2}) {
      CAPTURE(ksize);
      CAPTURE(stride);
      body(ksize, stride);
    }
  }
}

inline Shape map_shape(const Map& m, int channels, bool wide) {
  return wide ? Shape::wide(m.n, m.h, m.w, channels) : Shape::nhwc(m.n, m.h, m.w, channels);
}

// Work items in numbers and sizes of all kinds.
inline std::vector<DwconvCase> dwconv_cut_cases() {
  const Pending skipped{true, ops::Activation::linear, false, true};
  return some(
      std::vector<DwconvCase>{
          {"3 parts of each image",
           map_shape({2, 17, 19}, 96, true),
           3,
           2,
           skipped,
           true,
           true,
           {{1, 3, 2}, 0}},
          {"4 parts of each image",
           map_shape({3, 15, 15}, 24, false),
           5,
           2,
           skipped,
           true,
           true,
           {{1, 4, 3}, 0}},
          {"a part for each line",
           map_shape({1, 7, 7}, 144, true),
           5,
           1,
           skipped,
           true,
           true,
           {{1, 7, 1}, 0}},
          {"a part for each line of a small map",
           map_shape({2, 7, 7}, 96, true),
           3,
           1,
           skipped,
           true,
           true,
           {{1, 7, 2}, 0}},
          {"groups of 2 images, the last of 1",
           map_shape({5, 8, 8}, 72, false),
           3,
           1,
           skipped,
           true,
           true,
           {{2, 1, 3}, 0}},
          {"14 parts of a larger map",
           map_shape({1, 56, 56}, 48, true),
           5,
           1,
           {},
           false,
           true,
           {{1, 14, 1}, 0}},
          {"the op's own cut", map_shape({1, 56, 56}, 96, true), 3, 1},
          {"one item", map_shape({3, 9, 9}, 144, true), 5, 1, {}, false, true, {{3, 1, 1}, 0}},
      },
      2);
}

}  // namespace mbconv::test
