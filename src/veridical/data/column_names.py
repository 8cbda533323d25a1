"""Names of columns that differ only in how they are written: `Image path` is `image_path`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from veridical.data.record_kinds import MESSAGE_FIELDS, OPTIONAL_FIELDS, RowError

_BETWEEN = re.compile(r"[\s_-]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class KnownNames:
    """Names of columns that are read.

    Attributes:
        exact: as they are.
        by: the same by how they are told apart; of several that are one, the first.
    """

    exact: frozenset[str]
    by: Mapping[str, str]


def known(*names: Iterable[str]) -> KnownNames:
    """Names that are read, the plainest first."""
    every = list(chain(*names))
    return KnownNames(frozenset(every), {squeezed(name): name for name in reversed(every)})


TWICE = "are one name, and hold different values"
"""What is said of two such columns."""
OF_RECORDS = ("id", "images", "image", *chain(*MESSAGE_FIELDS.values(), *OPTIONAL_FIELDS.values()))
"""Columns of all kinds of records."""


@lru_cache(maxsize=4096)
def squeezed(name: str) -> str:
    """A name in small letters, without spaces, hyphens and underscores."""
    return _BETWEEN.sub("", name).casefold()


@lru_cache(maxsize=4096)
def with_underscores(name: str) -> str:
    """A name with underscores between its words: `Image path` and `imagePath` as `Image_path`."""
    return re.sub(r"[\s-]+", "_", _HUMP.sub("_", name.strip()))


def as_known(row: Mapping[str, object], names: KnownNames) -> dict[str, str]:
    """Columns of a row that are known under another spelling, with that.

    A column with a known name keeps it. One without a value counts as not there.

    Raises:
        RowError: two columns are one, and hold different values.
    """
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in sorted(row, key=lambda name: name not in names.exact):
        ours = names.by.get(squeezed(name))
        if ours is None or row[name] is None:
            continue
        other = taken.setdefault(squeezed(name), name)
        if other == name and name not in names.exact:
            found[name] = ours
        if not {other, name} <= names.exact and row[other] != row[name]:
            raise RowError(
                ours,
                f"the columns {other!r} and {name!r} {TWICE}: rename one, or take it out",
            )
    return found


def colliding(rows: Sequence[object], names: KnownNames) -> str | None:
    """Which columns of most rows are one, and hold different values; None where none are."""
    found = [reason for row in rows if (reason := _collision(row, names)) is not None]
    return found[0] if 2 * len(found) > len(rows) else None


def _collision(row: object, names: KnownNames) -> str | None:
    try:
        as_known(row, names) if isinstance(row, Mapping) else None
    except RowError as error:
        return error.reason
    return None
