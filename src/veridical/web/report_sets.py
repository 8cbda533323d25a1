"""The sets that a run report links to."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

from veridical.runtime.errors import UserError
from veridical.runtime.files import JSON_ERRORS, parse_json, read_text, real_path
from veridical.runtime.pages import VIEWED_SETS

CHUNK = 2**16


def is_report(path: Path) -> bool:
    """Whether a path is that of a page."""
    return path.suffix.lower() in (".html", ".htm")


def report_sets(page: Path) -> list[list[Path]]:
    """The folders of each set, in the order of the report's links.

    Raises:
        UserError: the page is not a report with answers or pairs, or a folder is gone.
    """
    names = _named(page)
    if not names:
        raise UserError(
            f"{page} names no answers or pairs. Name a report of runs that have some (write it "
            "again if it is of an earlier version), a file of records or a run's folder."
        )
    place = (real_path(page) if page.is_symlink() else page).parent
    found = [[place / name for name in own] for own in names]
    # Unlike `Path.is_dir`, this is false for a name that no file can have.
    gone = next((folder for own in found for folder in own if not os.path.isdir(folder)), None)  # noqa: PTH112
    if gone is not None:
        raise UserError(
            f"{page} leads to {gone}, which is not there. Name the folders of the runs instead, or "
            "write the report again."
        )
    return found


class _Head(HTMLParser):
    """Reads what the page's `meta` element says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the element's content."""
        own = dict(attrs)
        if tag == "meta" and own.get("name") == VIEWED_SETS:
            self.said = own.get("content") or ""


def _named(page: Path) -> list[list[str]]:
    """The folders that the page names; none if it names them in no way that we write."""
    text, head = read_text(page), _Head()
    for start in range(0, len(text), CHUNK):
        head.feed(text[start : start + CHUNK])
        if head.said is not None:
            break
    try:
        sets = parse_json(head.said or "")
    except JSON_ERRORS:
        return []
    whole = isinstance(sets, list) and all(isinstance(own, list) and own for own in sets)
    return sets if whole and all(isinstance(name, str) for own in sets for name in own) else []
