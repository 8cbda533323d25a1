"""Progress with the time left, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Pass `items` on, showing how many are done and how long the rest will take."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    yield from tqdm(items, desc=label, total=total, mininterval=interval, file=sys.stderr)
