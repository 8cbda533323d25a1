"""Nearly equal sketches, by hash buckets: the work grows as the number of sketches does.

MinHash signatures are datasketch's. Its index holds several kilobytes a row in dictionaries; here
each band is sorted once, in 8 bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

HASHES, BANDS = 64, 8
"""64 hashes in 8 bands: texts that share 90 % of their shingles meet in a band with probability
0.99, those that share half with 0.03."""
ALIKE = 0.85
"""Estimated share of common shingles from which texts are called nearly equal (our choice)."""
BITS = 3
"""Bits of 64 by which perceptual hashes of the same image differ. Of 128 COCO photographs,
recompression at quality 30 to 50 and half the size changed at most 2; different photographs
differed in 16 or more."""
NEIGHBORS = 8
"""Neighbors in its bucket that a hash is compared with, so that a bucket of flat images costs no
square."""

Hashes = NDArray[np.uint64]


def near_signatures(signatures: NDArray[np.uint64]) -> Iterator[tuple[int, int, float]]:
    """Pairs of nearly equal MinHash signatures: later, earlier, estimated similarity.

    Each signature is compared with the first of its bucket in every band, and reported once.

    Args:
        signatures: shape (texts, HASHES).
    """
    count = len(signatures)
    best = np.zeros(count)
    partner = np.full(count, -1, dtype=np.int64)
    for band in np.split(signatures, BANDS, axis=1) if count else ():
        first = _first_of_bucket(_mixed(band))
        alike = np.empty(count)
        for start in range(0, count, 65_536):  # 64 MB of comparisons at a time
            part = slice(start, start + 65_536)
            alike[part] = (signatures[part] == signatures[first[part]]).mean(axis=1)
        better = (first != np.arange(count)) & (alike >= ALIKE) & (alike > best)
        best[better], partner[better] = alike[better], first[better]
    for place in np.flatnonzero(partner >= 0):
        yield int(place), int(partner[place]), float(best[place])


def near_hashes(looks: Hashes) -> Iterator[tuple[int, int, int]]:
    """Pairs of hashes that differ in at most `BITS` bits: later, earlier, number of bits.

    Each later hash is reported once.
    """
    yield from _nearest(looks, np.arange(len(looks)), np.arange(len(looks)), NEIGHBORS)


def near_mirrored(looks: Hashes, mirrored: Hashes) -> Iterator[tuple[int, int, int]]:
    """Pairs of images of which one looks like the other in a mirror; else as `near_hashes`.

    Args:
        looks: hashes of the images.
        mirrored: hashes of their mirror images.
    """
    places = np.tile(np.arange(len(looks)), 2)
    sides = np.repeat([0, 1], len(looks))
    yield from _nearest(np.concatenate([looks, mirrored]), places, sides, 2 * NEIGHBORS)


def _nearest(
    looks: Hashes, places: NDArray[np.int64], sides: NDArray[np.int64], neighbors: int
) -> Iterator[tuple[int, int, int]]:
    """The nearest earlier place of each place, by hashes of different sides.

    One of four quarters of two hashes that differ in at most `BITS` bits is equal.
    """
    found: dict[int, tuple[int, int]] = {}
    for quarter in range(4):
        key = (looks >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = np.lexsort((looks, key))
        for step in range(1, neighbors + 1):
            one, other = order[:-step], order[step:]
            bits = np.bitwise_count(looks[one] ^ looks[other])
            differ = (sides[one] != sides[other]) & (places[one] != places[other])
            for place in np.flatnonzero((key[one] == key[other]) & (bits <= BITS) & differ):
                pair = sorted((int(places[one[place]]), int(places[other[place]])))
                known = found.get(pair[1])
                if known is None or int(bits[place]) < known[1]:
                    found[pair[1]] = pair[0], int(bits[place])
    for later in sorted(found):
        yield later, *found[later]


def _mixed(band: NDArray[np.uint64]) -> Hashes:
    """One number for each row of a band; equal rows have equal numbers."""
    mixed = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _first_of_bucket(keys: Hashes) -> NDArray[np.int64]:
    """For each key, the place of the first that is equal."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)
