#pragma once

#include <cstddef>
#include <span>

#include "ops/conv1x1.h"
#include "ops/pool.h"
#include "ops/squeeze_excite.h"

namespace mbconv::ops {

// The end of a block: squeeze-excite and the project convolution, where x is the deferred output of
// the depthwise convolution. Forward, image group by image group without a barrier between them:
// pool by row ranges and channel units, then squeeze-excite, then the product
//   y[n,p,o] = sum over c of f(scale x + shift)[n,p,c] gate[n,c] w[c,o],
// so that x crosses memory once while its image stays in cache.
struct ProjectForward {
  Pool pool;               // pool.x: the depthwise output, without gate
  SqueezeExcite se;        // se.mean is pool.mean
  Conv1x1Forward product;  // product.x: pool.x with gate se.gate; the cuts have the same groups
};

struct ProjectForwardCut {
  RowCut pool, product;  // of the same image groups
};
ProjectForwardCut project_forward_cut(const Shape& x, int cout);
// Overwrites pool.mean, se.u, se.gate, product.y and product.sums.
void project_forward(const Context& context, const ProjectForward& args);

// Backward. From dy, formed once, with a = f(z), z = scale x + shift, xhat the normalised
// x:
//   g = dy w^T                        the gradient of a * gate, stored for the depthwise backward
//   dw += (a gate)^T dy
// and per image and channel, sums over the pixels from which everything that needs a whole image or
// the whole batch follows without another sweep:
//   P0 = sum g a, P1 = sum g f'(z), P2 = sum f'(z), P3 = sum g f'(z) xhat, P4 = sum f'(z) xhat.
// dgate = P0; with `offset` from squeeze-excite, dz = (g gate + offset) f'(z), so that
//   sum dz = sum over n of gate P1 + offset P2,  sum dz xhat = sum over n of gate P3 + offset P4.
inline constexpr int kGateSums = 5;

struct ProjectBackward {
  DeferredGrad dy;           // [N,H,W,Cout]
  Deferred x;                // [N,H,W,C], with gate
  const float* mean;         // [C] of the batch norm of x
  const float* invstd;       // [C]
  Packed<const float> wt;    // [Cout,C]
  View<float> g;             // [N,H,W,C] out
  float* gate_sums;          // [C/48][N][slots][5][48] work: P0..P4, see GateSlots
  Packed<float> dw;          // [C,Cout] accumulated
  float* dw_slots;           // [cut.items()][C,Cout] work; unused if cut.items() = 1
  SqueezeExciteBackward se;  // se.dgate is written here from P0
  float* dgate;              // [N,C] work: what se.dgate points at
  float* finished_dy;        // [N,H,W,Cout] work: dy where several channel groups read it; unused
                             // if channel_groups = 1
  ChannelSums sums;          // out, one slot: of dz and dz xhat
  RowCut cut;
  int channel_groups;
};

struct ProjectBackwardCut {
  RowCut rows;
  int channel_groups;
};
ProjectBackwardCut project_backward_cut(const Shape& x, int cout);
// The share of the pass that the largest item has.
double largest_share(const ProjectBackwardCut& cut, const Shape& x);
// The slots that P0..P4 of an image are summed up in, in fp32: `of_part` for a part of it, one for
// each kMaxTileRows rows; sums of more rows are fp64. A slot is [5][kWideBlock]; those of a panel
// of channels lie together, [panel][image][slot].
struct GateSlots {
  int images, of_part, count;  // count: of an image
  MBCONV_INLINE constexpr GateSlots(const Shape& x, const RowCut& cut)
      : images(x.n),
        of_part(ceil_div(ceil_div(x.pixels(), cut.parts), kMaxTileRows)),
        count(cut.parts * of_part) {}
  // Where slot `slot` of image n begins.
  MBCONV_INLINE constexpr ptrdiff_t at(int panel, int n, int slot) const {
    return ((ptrdiff_t{panel} * images + n) * count + slot) * kGateSums * kWideBlock;
  }
};
constexpr size_t gate_sums_size(const Shape& x, const RowCut& cut) {
  return static_cast<size_t>(GateSlots(x, cut).at(ceil_div(x.padded_c(), kWideBlock), 0, 0));
}
// Floats of scratch memory a worker needs, for either direction.
size_t project_scratch(const Shape& x, int cout, int reduced);
// Overwrites g, sums, and what se.e, du, offset and h point at; accumulates dw and the
// gradients of squeeze-excite.
void project_backward(const Context& context, const ProjectBackward& args);

using ProjectBackwardItem = void(const ProjectBackward& args, int slot, int group, float* scratch);
std::span<const Variant<ProjectBackwardItem>> project_backward_variants();
// Of the pass that forms dy once for several channel groups: an item for each tile.
std::span<const Variant<ProjectBackwardItem>> project_finish_dy_variants();
// Of dgate, an item for each image, and of `sums`, an item for each panel of channels.
using ProjectSumsItem = void(const ProjectBackward& args, int item);
std::span<const Variant<ProjectSumsItem>> project_gate_gradient_variants();
std::span<const Variant<ProjectSumsItem>> project_sum_images_variants();

}  // namespace mbconv::ops
