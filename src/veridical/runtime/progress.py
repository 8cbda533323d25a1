"""Progress with the time left, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

from veridical.runtime import processes

Item = TypeVar("Item")


def counted(number: int, things: str) -> str:
    """A number with what it counts: "3 held-out pairs", "1 held-out pair".

    Args:
        number: how many.
        things: in the plural, which ends in s.
    """
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


def part_of(part: int, whole: int, things: str, one: str = "", many: str = "") -> str:
    """Some of all, with the verb that fits: "3 of 4 rows have", "1 of 1 row has".

    Args:
        part: how many.
        whole: of how many.
        things: in the plural, which ends in s.
        one: the verb for one of them; none where it is the same for one and many.
        many: the verb for several.
    """
    return f"{part} of {counted(whole, things)} {one if part == 1 else many}".rstrip()


def are_in(number: int, things: str, place: object) -> str:
    """A command's last line: "3 pairs are in PLACE.", "1 pair is in PLACE.".

    Args:
        number: how many.
        things: in the plural, which ends in s.
        place: the file.
    """
    return f"{counted(number, things)} {'is' if number == 1 else 'are'} in {place}."


def step_bar(total: int, done: int = 0) -> tqdm:
    """A line for steps that somebody else makes: call `update`, `set_postfix` and `close`."""
    return tqdm(
        desc="training",
        total=total,
        initial=done,
        mininterval=_interval(),
        file=sys.stderr,
        disable=not processes.is_first(),
    )


def _interval() -> float:
    return 0.5 if sys.stderr.isatty() else 10.0


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Pass `items` on, showing how many are done and how long the rest will take."""
    yield from tqdm(
        items,
        desc=label,
        total=total,
        mininterval=_interval(),
        file=sys.stderr,
        disable=not processes.is_first(),
    )
