"""The figures of a part as a table.

python benchmarks/gpu/figures_table.py [runs/gpu]     # all parts again, from their files
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

UNITS = {
    "flops_per_second": ("TFLOP/s", 1e-12),
    "model_flops_per_second": ("TFLOP/s", 1e-12),
    "bytes_per_second": ("GB/s", 1e-9),
    "peak_bytes": ("peak GB", 1e-9),
    "foretold_bytes": ("predicted GB", 1e-9),
    "seconds_a_step": ("s a step", 1.0),
    "pairs_per_second": ("pairs/s", 1.0),
    "tokens_per_second": ("tokens/s", 1.0),
    "tokens_per_second_with_prompt": ("tokens/s, prompt included", 1.0),
    "utilization": ("MFU", 1.0),
}
"""How a figure is headed, and what it is multiplied by."""


def print_part(content: dict[str, Any]) -> None:
    """A part's rows: those with the same columns as one table, then what was left out."""
    tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    rows = _tests(content["rows"]) if content["part"] == "tests" else content["rows"]
    for row in rows:
        if "failed" in row or "skipped" in row:
            continue
        tables.setdefault(tuple(row), []).append(row)
    for columns, like in tables.items():
        _print_table(columns, like)
    for row in rows:
        for why in ("failed", "skipped"):
            if why in row:
                label = ", ".join(str(value) for name, value in row.items() if name != why)
                print(f"  {why}: {label}: {row[why]}")
    for note in content["notes"]:
        print(f"  {note}")
    if content["status"] != "done":
        print(f"  {content['part']} {content['status']}: {content['reason']}")
    sys.stdout.flush()


def _tests(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each test in each dtype, with the farthest that any family was off."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        name, _, given = row["test"].partition("[")
        dtype = next((one for one in ("float32", "bfloat16") if one in given), "-")
        line = lines.setdefault(
            (name, dtype), {"test": name, "dtype": dtype, "passed": 0, "seconds": 0.0, "most": ""}
        )
        if row.get("outcome") == "passed":
            line["passed"] += 1
            line["seconds"] += row["seconds"]
            line["most"] = _farthest(line["most"], row["measured"])
    skipped: dict[str, list[str]] = {}
    for row in rows:
        if "skipped" in row:
            skipped.setdefault(row["skipped"], []).append(row["test"])
    left_out = [{"tests": f"{len(t)} tests", "skipped": why} for why, t in skipped.items()]
    return [*lines.values(), *left_out, *(row for row in rows if "failed" in row)]


def _farthest(known: str, measured: str) -> str:
    """Of figures such as `loss off 3e-5, gradient off 0.1`, the largest of each name."""
    most: dict[str, float] = {}
    for figure in [one for text in (known, measured) for one in text.split(", ") if one]:
        name, _, value = figure.rpartition(" ")
        most[name] = max(most.get(name, 0.0), float(value))
    return ", ".join(f"{name} {value:.3g}" for name, value in most.items())


def _print_table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    heads = [UNITS.get(column, (column.replace("_", " "), 1.0))[0] for column in columns]
    lines = [heads] + [[_cell(column, row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  " + "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)))


def _cell(column: str, value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int | float) and column in UNITS:
        return f"{value * UNITS[column][1]:.4g}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/gpu")
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        print(f"\n== {found['part']}")
        print_part(found)
