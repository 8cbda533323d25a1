"""Reading curves out of the rows of `log.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

# Start and end of a curve are means over a tenth of its rows: single batches are noisy.
END_SHARE = 0.1


def series(rows: Rows, name: str) -> list[tuple[float, float]]:
    """(step, value) of one figure where it was logged; non-finite values are kept as such."""
    return [
        (float(row["step"]), float(row[name]))
        for row in rows
        if row.get(name) is not None and row.get("step") is not None
    ]


def start_and_end(rows: Rows, name: str) -> tuple[float, float] | None:
    """Means of a figure over the first and the last tenth of its rows; None if never logged."""
    values = [value for _, value in series(rows, name)]
    if not values:
        return None
    count = max(1, round(len(values) * END_SHARE))
    return mean(values[:count]), mean(values[-count:])


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of at least one value."""
    return sum(values) / len(values)


def number(value: float) -> str:
    """Three significant digits, with a true minus sign."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def percent(share: float, form: str = ".0f") -> str:
    """A share in percent, with a narrow space and a true minus sign."""
    text = f"{share * 100:{form}}"
    if share < 1 and float(text) == 100:
        text = f"{math.floor(share * 1000) / 10:.1f}"  # nearly all is not all
    text = text.lstrip("+-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")
    return f"{text}\N{NARROW NO-BREAK SPACE}%"
