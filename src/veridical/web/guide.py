"""Guidelines in Markdown, of which headings, lists and bold words are shown as such."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LONGEST = 100_000
_ITEM = {"list": re.compile(r"\s*[-*+] "), "numbered": re.compile(r"\s*(\d{1,3})[.)] ")}


@dataclass(frozen=True)
class Block:
    """A heading, a paragraph or a list; each text as parts that are bold or not.

    Attributes:
        kind: which of them.
        texts: one, or the items of a list.
        start: the first item's number in a numbered list.
    """

    kind: Literal["heading", "paragraph", "list", "numbered"]
    texts: Sequence[Sequence[tuple[str, bool]]]
    start: int = 1


def blocks(text: str) -> list[Block]:
    """The blocks of a text; what is not a heading or list is a paragraph."""
    found: list[Block] = []
    for part in re.split(r"\n\s*\n", text[:LONGEST].strip()):
        lines = [line.rstrip() for line in part.splitlines() if line.strip()]
        while lines and lines[0].startswith("#"):
            found.append(Block("heading", [_bold(lines.pop(0).lstrip("# "))]))
        while lines:
            found.append(_list(lines) or _paragraph(lines))
    return found


def _list(lines: list[str]) -> Block | None:
    """Take a list off the lines; None where they begin with something else."""
    kind = _list_of(lines[0])
    if kind is None:
        return None
    first = _ITEM["numbered"].match(lines[0])
    start = int(first[1]) if first is not None else 1
    return Block(kind, [_bold(item) for item in _items(lines, _ITEM[kind])], start)


def _paragraph(lines: list[str]) -> Block:
    """Take a paragraph off the lines, up to a list.

    As in CommonMark, a number other than 1 begins no list there: it may be a line's first word.
    """
    taken = [lines.pop(0)]
    while lines and not _ITEM["list"].match(lines[0]):
        number = _ITEM["numbered"].match(lines[0])
        if number is not None and number[1] == "1":
            break
        taken.append(lines.pop(0))
    return Block("paragraph", [_bold(" ".join(line.strip() for line in taken))])


def _list_of(line: str) -> Literal["list", "numbered"] | None:
    """Which list a line is an item of."""
    if _ITEM["list"].match(line):
        return "list"
    return "numbered" if _ITEM["numbered"].match(line) else None


def _items(lines: list[str], mark: re.Pattern[str]) -> list[str]:
    """Take the items of a list off the lines; what is indented goes on with the one before."""
    items: list[str] = []
    while lines and (found := mark.match(lines[0])):
        item = [lines.pop(0)[found.end() :]]
        while lines and lines[0].startswith("  ") and not _list_of(lines[0]):
            item.append(lines.pop(0).strip())
        items.append(" ".join(item))
    return items


def _bold(text: str) -> list[tuple[str, bool]]:
    parts = re.split(r"\*\*(.+?)\*\*", text)
    return [(part, bool(place % 2)) for place, part in enumerate(parts) if part]
