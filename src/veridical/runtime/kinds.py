"""Reasons of one kind: what differs between them is a number, a file, or what they quote."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeVar

Item = TypeVar("Item")

QUOTED = re.compile(r"(?<!\w)'[^']*'(?!\w)|(?<!\w)\"[^\"]*\"(?!\w)")
"""What a reason quotes; the mark in "can't" quotes nothing."""
VARYING = re.compile(r"\S*[./\\]\S+|\d[\d,]*")
"""Names of files, and numbers."""
FEW = 3
"""Up to so many texts that reasons quote, each is a kind of its own (our choice)."""


def by_kind(items: Sequence[Item], said: Callable[[Item], tuple[str, str]]) -> list[list[Item]]:
    """Items by their kind of reason, the most frequent first.

    Args:
        items: in any order, which each kind keeps.
        said: an item's field and reason.
    """
    wide: dict[tuple[str, str], dict[str, list[Item]]] = {}
    for item in items:
        field, reason = said(item)
        quoted = QUOTED.findall(reason)
        bare = VARYING.sub("#", QUOTED.sub("'", reason))
        named = " ".join(VARYING.sub("#", one) for one in quoted)
        wide.setdefault((field, bare), {}).setdefault(named, []).append(item)
    kinds: list[list[Item]] = []
    for quoting in wide.values():
        kinds += quoting.values() if len(quoting) <= FEW else [list(chain(*quoting.values()))]
    return sorted(kinds, key=lambda kind: -len(kind))
