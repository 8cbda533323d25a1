"""Progress with the time left, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

from tqdm.auto import tqdm

from veridical.runtime import processes

Item = TypeVar("Item")
_ended: WeakKeyDictionary[tqdm, float] = WeakKeyDictionary()
"""When the bars were drawn whose line was ended since."""


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


def say(text: str) -> None:
    """Print lines of their own, also while a bar is open, whose line has no end yet.

    On a terminal the bar moves below them. In a file its line is ended first, or whoever leaves
    out lines with bars would lose the text too.
    """
    open_bars = list(getattr(tqdm, "_instances", ()))
    if open_bars and sys.stderr.isatty():
        tqdm.write(text, file=sys.stdout)
        return
    drawn = [bar for bar in open_bars if _ended.get(bar) != bar.last_print_t]
    for bar in drawn:
        _ended[bar] = bar.last_print_t
    if drawn:
        print(file=sys.stderr, flush=True)
    print(text, flush=True)


def end_bars() -> None:
    """Close every line that is still open, before a command ends with a message of its own.

    It would begin on such a line, and be followed by the line again when the interpreter ends.
    """
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


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
