"""The shapes that published sets have: one file for each, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from veridical.data.importers import flat, groups, lists, llava, sharegpt, text_json
from veridical.data.importers.rules import Fit, Rules
from veridical.data.record_kinds import Kind, RowError


def _no_rules(rows: Sequence[Mapping[str, object]]) -> Rules:
    del rows
    return Rules()


@dataclass(frozen=True)
class Shape:
    """A form that rows of foreign sets have.

    Attributes:
        name: as in `--as NAME`.
        summary: what a row looks like, in half a sentence.
        fits: a row to why it is of this shape and the kind of its records, None if it isn't.
        rows: a row to rows under our own names, or to what is wrong with a part of it.
        reads: columns that it has by names of its own.
        rules_of: what the first rows say of how they are to be read.
    """

    name: str
    summary: str
    fits: Callable[[Mapping[str, object]], Fit | None]
    rows: Callable[[Mapping[str, object], Rules, Kind], Iterable[dict[str, object] | RowError]]
    reads: tuple[str, ...] = ()
    rules_of: Callable[[Sequence[Mapping[str, object]]], Rules] = _no_rules


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("text-json", text_json.SUMMARY, text_json.fits, text_json.rows, text_json.READS),
        Shape("sharegpt", sharegpt.SUMMARY, sharegpt.fits, sharegpt.rows, sharegpt.READS),
        Shape("llava", llava.SUMMARY, llava.fits, llava.rows, llava.READS),
        Shape("groups", groups.SUMMARY, groups.fits, groups.rows, groups.READS),
        Shape("lists", lists.SUMMARY, lists.fits, lists.rows, lists.READS),
        Shape("flat", flat.SUMMARY, flat.fits, flat.rows, flat.READS, flat.rules_of),
    )
}
"""By name; `auto` tries them in this order. A `meta.json` names files whose rows are of these."""
