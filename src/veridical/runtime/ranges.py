"""The numbers that a setting takes, written beside its type: `beta: Annotated[float, ABOVE_ZERO]`.

The command line and `check` read the same declaration.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass

from veridical.runtime.errors import UserError

MOST = 10**9
"""Above any count or weight that means something, and far from what 64 bits and floats hold."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting takes; never NaN or infinity.

    Attributes:
        low: the lowest.
        high: the highest.
        above: whether `low` itself is left out.
        below: whether `high` itself is left out.
        or_else: one number outside that stands for "not set"; None if there is none.
    """

    low: float = 0
    high: float = MOST
    above: bool = False
    below: bool = False
    or_else: int | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` is in it."""
        if value == self.or_else:
            return True
        if not math.isfinite(value):
            return False
        low = self.low < value if self.above else self.low <= value
        return low and (value < self.high if self.below else value <= self.high)

    def check(self, name: str, value: float) -> None:
        """Refuse a number outside it.

        Raises:
            UserError: names the option and the range.
        """
        if not self.holds(value):
            raise UserError(f"--{name.replace('_', '-')} is {_shown(value)}; give {self}.")

    def __str__(self) -> str:
        if self.high < MOST:
            left, right = "above " if self.above else "", "below " if self.below else ""
            text = f"{left}{self.low:,g} to {right}{self.high:,}"
        elif self.low <= -MOST:
            text = f"{-MOST:,} to {MOST:,}"
        else:
            text = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
            text += f" (at most {MOST:,})"
        return text if self.or_else is None else f"{text}, or {self.or_else} for none"


COUNT = Range(1)
ANY = Range(-MOST)
WEIGHT = Range(0)
ABOVE_ZERO = Range(0, above=True)
SHARE = Range(0, 1)
RATE = Range(0, 10, above=True)


def range_of(hint: object) -> Range | None:
    """The range that an annotation declares; None if it declares none."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Range):
            return extra
    return None


def check_ranges(settings: object) -> None:
    """Refuse a dataclass's field that is outside the range that its annotation declares.

    Raises:
        UserError: names the option and the range.
    """
    for name, hint in typing.get_type_hints(type(settings), include_extras=True).items():
        declared = range_of(hint)
        value = getattr(settings, name, None)
        if declared is not None and isinstance(value, int | float):  # a word stands beside numbers
            declared.check(name, value)


def _shown(value: float) -> str:
    text = str(value) if abs(value) < 10**15 or not math.isfinite(value) else f"{value:.3g}"
    return text if len(text) <= 40 else f"{text[:37]}..."
