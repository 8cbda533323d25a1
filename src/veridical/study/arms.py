"""A study's arms: a list, one factor at a time, a grid; and its seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from veridical.runtime.errors import UserError
from veridical.study.study_place import StudyPlace

MOST_ARMS = 1_000
MOST_CELLS = 20_000
"""Arms times seeds; laying out more takes minutes."""
Level: TypeAlias = Any
"""A factor's value, in YAML's types."""


def read_seeds(place: StudyPlace, given: object) -> tuple[int, ...]:
    """A list of numbers, or how many, from 0."""
    count = given if isinstance(given, int) and not isinstance(given, bool) else 0
    if count > MOST_CELLS:
        place.refuse(f"{count:,} seeds are too many; {MOST_CELLS:,} are the most.")
    found = list(range(count)) if count else given
    if (
        not isinstance(found, list)
        or not found
        or not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in found)
        or len(set(found)) < len(found)
        or min(found) < 0
    ):
        place.refuse("seeds has to be a number above 0, or a list of different numbers from 0 up.")
    assert isinstance(found, list)
    return tuple(found)


def read_arms(
    place: StudyPlace, given: object, factors: Mapping[str, Level], base: str
) -> tuple[dict[str, dict[str, Level]], tuple[str, ...]]:
    """The arms by name, the base arm first, and the factors that a grid crosses."""
    fields = place.mapping(given, "arms", ("list", "one_at_a_time", "grid"))
    arms: dict[str, dict[str, Level]] = {base: {}}

    def add(name: str, changed: Mapping[str, Level]) -> None:
        place.check_name(name, "the arm's name")
        if unknown := sorted(changed.keys() - factors.keys()):
            place.refuse(
                f"arm {name} changes {unknown[0]}, which is not a factor; there is "
                f"{', '.join(factors)}. A factor's level in the base arm stands in `factors`."
            )
        differs = {key: level for key, level in changed.items() if level != factors[key]}
        alike = [other for other, levels in arms.items() if levels == differs]
        if name in arms or alike:
            place.refuse(f"arm {name} is the same as arm {(alike or [name])[0]}.")
        arms[name] = differs

    for name, changed in place.mapping(fields.get("list") or {}, "arms.list").items():
        add(name, place.mapping(changed, f"arm {name}"))
    singles = place.mapping(fields.get("one_at_a_time") or {}, "arms.one_at_a_time")
    for factor, levels in singles.items():
        for level in levels_of(place, factor, levels):
            add(f"{factor}={shown_level(level)}", {factor: level})
    grid = place.mapping(fields.get("grid") or {}, "arms.grid")
    crossed = [levels_of(place, factor, levels) for factor, levels in grid.items()]
    if (count := math.prod(map(len, crossed))) > MOST_ARMS:
        place.refuse(f"a grid of {count:,} arms is too large; {MOST_ARMS:,} are the most.")
    for cell in itertools.product(*crossed) if grid else ():
        changed = dict(zip(grid, cell, strict=True))
        if any(level != factors.get(factor) for factor, level in changed.items()):
            parts = [f"{factor}={shown_level(level)}" for factor, level in changed.items()]
            add(",".join(parts), changed)
    if len(arms) > MOST_ARMS:
        place.refuse(f"{len(arms):,} arms are too many; {MOST_ARMS:,} are the most.")
    return arms, tuple(grid)


def levels_of(place: StudyPlace, factor: str, levels: object) -> list[Level]:
    """The levels that a file lists for a factor."""
    if not isinstance(levels, list) or not levels:
        raise UserError(f"{place.name}: the levels of {factor} have to be a list.")
    return levels


def shown_level(level: Level) -> str:
    """A level, fit for a name."""
    if isinstance(level, bool):
        return "true" if level else "false"
    text = f"{level:g}" if isinstance(level, float) else str(level)
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in text)[:40]
