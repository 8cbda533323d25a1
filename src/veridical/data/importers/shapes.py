"""The shapes that published sets have: one file for each, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from veridical.data.importers import flat
from veridical.data.importers.rules import Rules
from veridical.data.record_rows import RowError


@dataclass(frozen=True)
class Shape:
    """A form that rows of foreign sets have.

    Attributes:
        name: as in `--as NAME`.
        summary: what a row looks like, in half a sentence.
        fits: a row to the reason why it is of this shape, None if it isn't.
        rows: a row to rows under our own names, or to what is wrong with a part of it.
    """

    name: str
    summary: str
    fits: Callable[[Mapping[str, Any]], str | None]
    rows: Callable[[Mapping[str, Any], Rules], Iterable[dict[str, Any] | RowError]]


SHAPES: dict[str, Shape] = {
    shape.name: shape for shape in (Shape("flat", flat.SUMMARY, flat.fits, flat.rows),)
}
"""By name; `auto` tries them in this order."""
