"""Noise that depends on what it is for, never on when it is drawn.

Every random decision is drawn from a generator keyed by the seed and by names of the thing it
decides (a row's id, a step), so that batch size, order, number of processes and interruptions
leave the result unchanged.
"""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, *names: str | int) -> int:
    """A 128-bit number that is the same on every machine for the same seed and names."""
    text = "\0".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A fresh NumPy generator for the thing that `names` name."""
    return np.random.Generator(np.random.Philox(key=key(seed, *names)))
