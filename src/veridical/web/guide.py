"""Guidelines in Markdown, of which headings, lists and bold words are shown as such."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LONGEST = 100_000


@dataclass(frozen=True)
class Block:
    """A heading, a paragraph or a list; each text as parts that are bold or not."""

    kind: Literal["heading", "paragraph", "list"]
    texts: Sequence[Sequence[tuple[str, bool]]]


def blocks(text: str) -> list[Block]:
    """The blocks of a text; what is no heading or list is a paragraph."""
    found: list[Block] = []
    for part in re.split(r"\n\s*\n", text[:LONGEST].strip()):
        lines = [line.rstrip() for line in part.splitlines() if line.strip()]
        while lines and lines[0].startswith("#"):
            found.append(Block("heading", [_bold(lines.pop(0).lstrip("# "))]))
        items: list[str] = []
        while lines and lines[0].lstrip().startswith(("- ", "* ")):
            item = [lines.pop(0).lstrip()[2:]]
            while lines and lines[0].startswith("  "):
                item.append(lines.pop(0).strip())
            items.append(" ".join(item))
        if items:
            found.append(Block("list", [_bold(item) for item in items]))
        if lines:
            found.append(Block("paragraph", [_bold(" ".join(line.strip() for line in lines))]))
    return found


def _bold(text: str) -> list[tuple[str, bool]]:
    parts = re.split(r"\*\*(.+?)\*\*", text)
    return [(part, bool(place % 2)) for place, part in enumerate(parts) if part]
