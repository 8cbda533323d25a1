"""The kinds of judges that `--judge` names; nothing here loads a library."""

from __future__ import annotations

from collections.abc import Sequence

from veridical.runtime.errors import UserError

SHAPES = {
    "exact": "exact",
    "chair": "chair",
    "reward": "reward:FOLDER",
    "local": "local:MODEL",
    "endpoint": "endpoint:MODEL",
}
"""How `--judge` names each kind."""
BY_OBJECTS = ("exact", "chair")
"""Kinds that need object lists, and no model."""


def check_kind(judge: str, kinds: Sequence[str]) -> None:
    """Refuse a `--judge` that is none of some kinds, or lacks its model.

    Raises:
        UserError: lists those that there are.
    """
    kind, _, model = judge.partition(":")
    if kind not in kinds or (kind in BY_OBJECTS) == bool(model):
        raise UserError(f"--judge {judge} is none of {', '.join(SHAPES[one] for one in kinds)}.")
