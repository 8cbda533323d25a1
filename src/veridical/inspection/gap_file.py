"""Log-probability gaps of single pairs, kept in a file that `veridical view --gaps` shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_jsonl

FIELDS = ("logp_gap", "logp_gap_without_image")


@dataclass(frozen=True)
class Gap:
    """A pair's log-probability of chosen minus that of rejected, summed over tokens.

    Attributes:
        pair: its place among the usable pairs.
        row: its row in the file, counted from 1.
        own: with its image.
        gray: with plain gray in place of the image.
    """

    pair: int
    row: int
    own: float
    gray: float


def gap_lines(file: Path, model: str, gaps: Sequence[Gap]) -> list[dict[str, object]]:
    """A line for each gap, null where it is infinite; the set is known by what its file holds."""
    if not gaps:
        return []
    about = {"set": str(file), "sha256": hash_file(file), "model": model}
    return [
        {**about, "row": gap.row, FIELDS[0]: _finite(gap.own), FIELDS[1]: _finite(gap.gray)}
        for gap in sorted(gaps, key=lambda gap: gap.row)
    ]


def read_gaps(path: Path, file: Path) -> dict[int, dict[str, float]]:
    """The gaps of one set by the number of the row, under the names of `FIELDS`.

    Raises:
        UserError: the file is of another form, or has none of this set as it is now.
    """
    lines = read_jsonl(path)
    if not all(_is_gap(line) for line in lines):
        raise UserError(
            f"{path} is not a file of gaps as `veridical data describe --model` writes it."
        )
    own = hash_file(file)
    found = {
        line["row"]: {name: line[name] for name in FIELDS if line[name] is not None}
        for line in lines
        if line["sha256"] == own
    }
    if not found:
        sets = ", ".join(dict.fromkeys(line["set"] for line in lines)) or "no set"
        raise UserError(
            f"{path} has gaps of {sets}, and none of {file} as it is now. Run `veridical data "
            f"describe {file} --model ...` again."
        )
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _is_gap(line: object) -> bool:
    return (
        isinstance(line, Mapping)
        and all(isinstance(line.get(name), str) for name in ("set", "sha256"))
        and type(line.get("row")) is int
        and all(name in line and _is_number(line[name]) for name in FIELDS)
    )


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isfinite(value))
