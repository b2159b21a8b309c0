"""The counter-based generator of lib/rng.h (Philox4x32-10), vectorised, bit for bit."""

import numpy as np

SYNTHETIC = 4  # Purpose::synthetic


def philox(counter, key):
    """Ten rounds. counter: four, key: two arrays or numbers of 32 bits."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    c = [np.asarray(x, np.uint64) for x in counter]
    k = [int(x) for x in key]
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c[0]
        p1 = np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> half) ^ c[1] ^ np.uint64(k[0]), p1 & low,
             (p0 >> half) ^ c[3] ^ np.uint64(k[1]), p0 & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack([x.astype(np.uint32) for x in c], axis=-1)


def draws(seed, epoch, sample, count):
    """The first `count` values of Rng(seed, epoch, sample, Purpose::synthetic).next()."""
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    counter = [blocks, epoch ^ (SYNTHETIC << 24), sample & 0xFFFFFFFF, sample >> 32]
    return philox(counter, [seed & 0xFFFFFFFF, seed >> 32]).reshape(-1)[:count]


def symmetric(seed, epoch, sample, count):
    """2 u - 1 for the first `count` values u of uniform(): float32, exact."""
    u = (draws(seed, epoch, sample, count) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    return np.float32(2) * u - np.float32(1)


# The published vectors of Random123 for philox4x32-10.
assert [int(x) for x in philox([0] * 4, [0] * 2)] == [
    0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
assert [int(x) for x in philox([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
                               [0xA4093822, 0x299F31D0])] == [
    0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
