"""Which pairs a composed set takes, in which order, and which of them are swapped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted
from veridical.runtime.randomness import key
from veridical.runtime.ranges import COUNT, SHARE, check_ranges

FACTORS = ("prompts", "chosen_by", "rejected_by", "judge")
AS_ROWS_SAY = "-"


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Where the sets are from: one text for each set.

    `-` takes the value from each row's `source`.

    Attributes:
        prompts: where the prompts are from.
        chosen_by: who wrote the chosen answers.
        rejected_by: who wrote the rejected answers.
        judge: who decided which is which.
        keep: NAME=VALUE ...: take only pairs with this value of one of the four above, or of an
            entry of `source` (a dotted path, such as columns.model). A name may be given several
            times, for several values.
    """

    prompts: list[str] | None = None
    chosen_by: list[str] | None = None
    rejected_by: list[str] | None = None
    judge: list[str] | None = None
    keep: list[str] | None = None

    def check(self, sets: int) -> None:
        """Refuse declarations that do not fit.

        Raises:
            UserError: names the option.
        """
        for name in FACTORS:
            given = getattr(self, name)
            if given is not None and len(given) != sets:
                option = name.replace("_", "-")
                raise UserError(
                    f"--{option} has {counted(len(given), 'texts')}; give one for each of "
                    f"{counted(sets, 'sets')}."
                )
        self.wanted()

    def of(self, number: int, source: Mapping[str, Any]) -> dict[str, str]:
        """The factors of a pair of a set; those that nobody says are left out."""
        found = {}
        for name in FACTORS:
            declared = (getattr(self, name) or [AS_ROWS_SAY] * (number + 1))[number]
            value = source.get(name) if declared == AS_ROWS_SAY else declared
            if value is not None:
                found[name] = str(value)
        return found

    def wanted(self) -> dict[str, set[str]]:
        """The values to keep, by name.

        Raises:
            UserError: a condition has no "=".
        """
        found: dict[str, set[str]] = {}
        for one in self.keep or ():
            name, equals, value = one.partition("=")
            if not equals or not name:
                raise UserError(f"--keep {one}: write NAME=VALUE, such as chosen_by=gpt-4v.")
            found.setdefault(name.replace("-", "_") if "." not in name else name, set()).add(value)
        return found


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How many pairs.

    Attributes:
        size: number of pairs in the result. If not set, all; with --weights, the most that keep
            the weights.
        weights: relative share of each set in the result; in proportion to its size if not set.
        swap: share of pairs whose chosen and rejected answers are exchanged (label noise).
    """

    size: Annotated[int | None, COUNT] = None
    weights: list[float] | None = None
    swap: Annotated[float, SHARE] = 0.0

    def check(self, sets: int) -> None:
        """Refuse amounts that make no sense.

        Raises:
            UserError: names the option.
        """
        check_ranges(self)
        if self.weights is not None:
            if len(self.weights) != sets:
                raise UserError(
                    f"--weights has {counted(len(self.weights), 'numbers')}; give one for each of "
                    f"{counted(sets, 'sets')}."
                )
            if not all(0 < weight < float("inf") for weight in self.weights):
                raise UserError("--weights have to be above 0; leave out a set that is not wanted.")


@dataclass(frozen=True)
class Candidate:
    """A pair that may be taken.

    Attributes:
        set: number of its set, from 0.
        index: of the row there.
        id: its own.
        factors: see `Factors`.
        partner: row of the other rejected answer; None to keep its own.
        swap: whether chosen and rejected are exchanged.
    """

    set: int
    index: int
    id: str
    factors: Mapping[str, str] = field(default_factory=dict)
    partner: int | None = None
    swap: bool = False


def set_names(paths: Sequence[Path]) -> list[str]:
    """A short name for each set: its file's, else its folder's, else its number."""
    for names in ([path.stem for path in paths], [path.resolve().parent.name for path in paths]):
        if len(set(names)) == len(names) and all(names):
            return names
    return [str(number) for number in range(1, len(paths) + 1)]


def source_of(text: str | None) -> dict[str, object]:
    """What a row's `source` says, as an object."""
    try:
        content = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def entry(source: Mapping[str, Any], name: str) -> str | None:
    """The value at a dotted path, as text; None where there is none."""
    value: Any = source
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None or isinstance(value, (dict, list)) else str(value)


def entries(source: Mapping[str, Any], before: str = "") -> list[str]:
    """The dotted paths of values in a `source`, as `entry` takes them."""
    found: list[str] = []
    for name, value in source.items():
        if isinstance(value, Mapping):
            found += entries(value, f"{before}{name}.")
        elif value is not None and not isinstance(value, list):
            found.append(f"{before}{name}")
    return found


def quotas(sizes: Sequence[int], amounts: Amounts, names: Sequence[str]) -> list[int]:
    """How many pairs each set gives; by largest remainder, of equals the earlier set's.

    Args:
        sizes: pairs that each set has.
        amounts: what is asked for.
        names: of the sets, for the message.

    Raises:
        UserError: a set has too few; says what size they allow.
    """
    weights = amounts.weights or [float(size) for size in sizes]
    whole = sum(weights)
    most = min(
        int(size * whole / weight + 1e-9)
        for size, weight in zip(sizes, weights, strict=True)
        if weight
    )
    size = amounts.size if amounts.size is not None else (most if amounts.weights else sum(sizes))
    exact = [size * weight / whole for weight in weights]
    found = [int(share + 1e-9) for share in exact]
    order = sorted(range(len(exact)), key=lambda number: (found[number] - exact[number], number))
    for number in order[: size - sum(found)]:
        found[number] += 1
    for number, (wanted, there) in enumerate(zip(found, sizes, strict=True)):
        if wanted > there:
            raise UserError(
                f"{names[number]} has {there} pairs to take, and --size {size} needs {wanted} of "
                f"them. Set --size {most} or less, or other --weights."
            )
    return found


def draw(candidates: Sequence[Candidate], count: int, seed: int) -> list[Candidate]:
    """Some of a set's pairs: those whose ids come first in an order by seed.

    So a smaller draw is a part of a larger one, and two sets with the same ids give the same ids.
    """
    return sorted(candidates, key=lambda one: (key(seed, "draw", one.id), one.id))[:count]


def swapped_ids(ids: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """The ids of the pairs to swap: their share of the whole, rounded.

    The pairs that a smaller share swaps are among those of a larger one.
    """
    order = sorted(ids, key=lambda one: (key(seed, "swap", one), one))
    return frozenset(order[: int(share * len(ids) + 0.5)])
