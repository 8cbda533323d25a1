"""Several files of rows in one epoch, each with the share that was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted
from veridical.runtime.randomness import generator


def check_weights(weights: Sequence[float] | None, files: int) -> None:
    """Refuse weights that say nothing about these files.

    Raises:
        UserError: another number of weights than of files, or one that is not above 0.
    """
    if weights is None:
        return
    if len(weights) != files or files < 2:
        raise UserError(
            f"--data-weights has {counted(len(weights), 'numbers')} for "
            f"{counted(files, 'files')}. Give one for --data and "
            "one for each file of --more-data."
        )
    for weight in weights:
        if not 0 < weight < math.inf:
            raise UserError(f"--data-weights: {weight:g} is not a share; give numbers above 0.")


def mixed(files: Sequence[int], weights: Sequence[float], seed: int) -> list[int]:
    """The rows of an epoch, by place, some of them more than once.

    The file with the most rows for its weight has each row once. Every other has each of its rows
    equally often, and some, drawn by seed, once more, until it has its share. So no row is lost,
    and every epoch has the same rows.

    Args:
        files: the number of the file that each row is from.
        weights: of the files, with any sum.
        seed: of the draw.

    Raises:
        UserError: a file has no rows.
    """
    places: list[list[int]] = [[] for _ in weights]
    for place, file in enumerate(files):
        places[file].append(place)
    for file, own in enumerate(places):
        if not own:
            raise UserError(
                f"--data-weights: file {file + 1} (--data, then --more-data) has no rows left to "
                "train on."
            )
    scale = max(len(own) / weight for own, weight in zip(places, weights, strict=True))
    found: list[int] = []
    for file, (own, weight) in enumerate(zip(places, weights, strict=True)):
        times, more = divmod(max(len(own), round(scale * weight)), len(own))
        drawn = generator(seed, "data weights", file).permutation(len(own))[:more]
        found += own * times + sorted(own[int(i)] for i in drawn)
    return sorted(found)
