"""Short names that tell paths apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def path_names(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its last part, with as many folders before it as tell it from others.

    Args:
        paths: the same path twice gets the same name.
    """
    parts = [path.absolute().parts for path in paths]
    return ["/".join(own[-_parts_needed(own, parts) :]) for own in parts]


def _parts_needed(own: Sequence[str], parts: Sequence[Sequence[str]]) -> int:
    """How many of a path's last parts no other path has."""
    others = [other for other in parts if other != own]
    count = 1
    while any(other[-count:] == own[-count:] for other in others):
        count += 1
    return count
