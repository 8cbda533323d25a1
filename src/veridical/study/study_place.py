"""A study's file while it is read: its parts are checked, and messages name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from veridical.runtime.errors import UserError
from veridical.study.plan import NAME, OUTPUTS

LONGEST_NAME = 100
"""Letters of a name, which is one of a folder too."""


@dataclass(frozen=True)
class StudyPlace:
    """A file, for messages."""

    name: str

    def refuse(self, text: str) -> None:
        """Say what is wrong with the file."""
        raise UserError(f"{self.name}: {text}")

    def mapping(self, value: object, what: str, known: Sequence[str] = ()) -> dict[str, Any]:
        """A mapping of names to values, with no other names than the known ones."""
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{self.name}: {what} has to be a mapping of names to values.")
        if known and (unknown := sorted(value.keys() - set(known))):
            raise UserError(
                f"{self.name}: there is no field {unknown[0]} of {what}; there is "
                f"{', '.join(known)}."
            )
        return value

    def options(self, value: object, what: str) -> dict[str, Any]:
        """Options by the names that a configuration file has, less what a study says itself."""
        named = self.mapping(value, f"options of {what}")
        found = {key.replace("-", "_"): option for key, option in named.items()}
        if len(found) < len(named):
            self.refuse(f"options of {what} has one twice, with - and with _.")
        if written := next((key for key in OUTPUTS if key in found), None):
            self.refuse(f"{what} names its {written}. A study says itself where steps write.")
        return found

    def check_name(self, name: str, what: str) -> None:
        """Refuse a name that is not a folder's."""
        if len(name) > LONGEST_NAME:
            self.refuse(f"{what} {name[:20]!r}... has {len(name)} letters; {LONGEST_NAME} are the "
                        "most.")  # fmt: skip
        if not NAME.fullmatch(name) or "/" in name:
            self.refuse(f"{what} {name!r} may have letters, digits, - _ . = and , only.")

    def number(self, value: object, what: str, low: float, high: float) -> float:
        """A number between two others."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
            raise UserError(f"{self.name}: {what} has to be between {low:g} and {high:g}.")
        return float(value)
