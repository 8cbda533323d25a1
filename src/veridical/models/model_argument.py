"""What functions take for a model: its name, or a model that is loaded already."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from veridical.models.policy import Policy

    Model: TypeAlias = str | Policy
    """A hub name, a folder, `embedded`, or a loaded policy."""
else:
    # An option of the command line is a name, and `--help` needs no PyTorch.
    Model = str


def name_of(model: Model) -> str:
    """The name of a model, or what a loaded one was loaded by."""
    return model if isinstance(model, str) else model.adapter or model.name
