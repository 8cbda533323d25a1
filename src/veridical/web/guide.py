"""Guidelines in Markdown, of which headings, lists and bold words are shown as such."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LONGEST = 100_000
_ITEM = {"list": re.compile(r"\s*[-*+] "), "numbered": re.compile(r"\s*\d{1,3}[.)] ")}


@dataclass(frozen=True)
class Block:
    """A heading, a paragraph or a list; each text as parts that are bold or not."""

    kind: Literal["heading", "paragraph", "list", "numbered"]
    texts: Sequence[Sequence[tuple[str, bool]]]


def blocks(text: str) -> list[Block]:
    """The blocks of a text; what is not a heading or list is a paragraph."""
    found: list[Block] = []
    for part in re.split(r"\n\s*\n", text[:LONGEST].strip()):
        lines = [line.rstrip() for line in part.splitlines() if line.strip()]
        while lines and lines[0].startswith("#"):
            found.append(Block("heading", [_bold(lines.pop(0).lstrip("# "))]))
        while lines and (kind := _list_of(lines[0])):
            found.append(Block(kind, [_bold(item) for item in _items(lines, _ITEM[kind])]))
        if lines:
            found.append(Block("paragraph", [_bold(" ".join(line.strip() for line in lines))]))
    return found


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
