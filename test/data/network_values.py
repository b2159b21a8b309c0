"""Generated numbers of the network fixtures, as the tests in C++ generate them again, bit for bit.

s(e) is 2 * uniform() - 1 for the e-th draw of stream Rng(1, epoch 0, sample, Purpose::synthetic) of
lib/rng.h (seed 1): one draw for each element of a tensor, in row-major order of its shape. All
arithmetic is float, each operation rounded, no fused multiply-add; scales are computed in double and
rounded to float once.

Parameters of B0. sample = number of the tensor among the trainable ones, in state_dict order:
  4-D (convolutions)      float(sqrt(6 / (shape[1] * shape[2] * shape[3]))) * s
  2-D (classifier)        float(sqrt(3 / shape[1])) * s
  1-D, not a batch norm   0.1f * s                    (biases of squeeze-excite and classifier)
  1-D, batch norm weight  gain * (1 + 0.1f * s)
  1-D, batch norm bias    gain * (0.1f * s)
gain is 1, but for the batch norm after a projection (blocks.*.*.bn3, and blocks.0.*.bn2 in the published
topology): 16 in the first block of a stage, 4 in the others. With gain 1 everywhere the gradients of the
16 biases of these batch norms, exactly 0, are not ten times inside their tolerance; their rounding
error is inverse to the gain. The smaller gain of blocks with a skip makes the network less chaotic.
The variances that expand convolutions see are then about 500 and hide the epsilon of their batch norms:
the narrow network shows it.

Running statistics of B0. sample = 500000 + number among the running statistics, in state_dict order:
  running_mean            0.125f * s
  running_var             c * (1 + 0.5f * s), c = 512 where the convolution before reads a block's
                          output (blocks.*.*.bn1 but for blocks.0, and the head's bn2), else 0.5

Images of B0 [4,R,R,3] (NHWC): 1.7f * s, sample = 1000000. Labels (3 n + 1) % 10.

Pictures for the narrow network [48,48,3], numbered i = 0, 1, ...: element (y, x, c) is
0.5f * s + 1.2f * s', s element (y / 8, x / 8, c) of [6,6,3] from sample 2000000 + i % 10, s' element
(y, x, c) of [48,48,3] from sample 3000000 + i. The label is i % 10.

Projections p_k (k < 16) of a tensor x: sum over e of x(e), negated where bit k of the e-th next() of
Rng(1, epoch 1, sample, Purpose::synthetic) is set; sample as for the initial value. Of an error
d = x - x_ref each p_k - p_ref_k has mean 0 and standard deviation |d|, so
sqrt(mean over k of (p_k - p_ref_k)^2) estimates |d|, to about 18 %.
"""

import math

import numpy as np
import philox

SEED, CLASSES, PROJECTIONS = 1, 10, 16
PICTURE, CELL = 48, 8
f = np.float32


def parameter(name, shape, number, expand, gains=(16, 4)):
    """gains: of projections in the first block of a stage and in the others."""
    s = philox.symmetric(SEED, 0, number, math.prod(shape)).reshape(shape)
    if len(shape) == 4:
        return f(math.sqrt(6 / math.prod(shape[1:]))) * s
    if len(shape) == 2:
        return f(math.sqrt(3 / shape[1])) * s
    value = f(0.1) * s
    if name.endswith(".weight"):
        value = f(1) + value
    projection = ".bn3." in name or (not expand and name.startswith("blocks.0.") and ".bn2." in name)
    if projection:
        value = f(gains[0 if name.split(".")[2] == "0" else 1]) * value
    return value


def running_statistic(name, shape, number):
    s = philox.symmetric(SEED, 0, 500000 + number, math.prod(shape))
    if name.endswith("running_mean"):
        return f(0.125) * s
    reads_block = name.startswith("bn2.") or (
        name.startswith("blocks.") and not name.startswith("blocks.0.") and ".bn1." in name)
    return f(512 if reads_block else 0.5) * (f(1) + f(0.5) * s)


def b0_batch(resolution):
    shape = (4, resolution, resolution, 3)
    images = f(1.7) * philox.symmetric(SEED, 0, 1000000, math.prod(shape)).reshape(shape)
    return images, (3 * np.arange(4) + 1) % CLASSES


def pictures(first, count):
    cells = PICTURE // CELL
    images = np.empty((count, PICTURE, PICTURE, 3), np.float32)
    for n in range(count):
        i = first + n
        pattern = philox.symmetric(SEED, 0, 2000000 + i % CLASSES, cells * cells * 3)
        pattern = pattern.reshape(cells, cells, 3).repeat(CELL, axis=0).repeat(CELL, axis=1)
        noise = philox.symmetric(SEED, 0, 3000000 + i, images[n].size).reshape(images[n].shape)
        images[n] = f(0.5) * pattern + f(1.2) * noise
    return images, np.arange(first, first + count) % CLASSES


def projections(x, sample):
    x = x.ravel()
    bits = philox.draws(SEED, 1, sample, x.size)
    return np.array([np.sum(np.where(bits >> np.uint32(k) & np.uint32(1), -x, x))
                     for k in range(PROJECTIONS)])
