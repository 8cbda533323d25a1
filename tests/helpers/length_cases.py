"""Made annotations for AlpacaEval 2's length control, and what its own package says of them.

The figures in tests/eval/test_alpaca_lengths.py are those that this prints:

    pip install alpaca_eval==0.6.6 "setuptools<80"
    python tests/helpers/length_cases.py

The package reads df_gamed.csv from the hub; here it is given the file that is made below.
"""

from __future__ import annotations

import importlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

COLUMNS = ("model", "index", "preference", "std_delta_len", "instruction_difficulty",
           "not_gamed_baseline")  # fmt: skip
CASES = ("plain", "ties", "unread", "some", "shuffled", "strong", "weak", "few")


def _wave(number: float, step: float) -> float:
    """Between -1 and 1, without a pattern that a regression could find."""
    return math.sin(number * step + 0.3 * math.sin(2.3 * number))


def _chance(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def write_gamed(path: Path, instructions: int = 200) -> None:
    """A file of the form of df_gamed.csv: a shorter baseline, then a longer one."""
    lines = [",".join(COLUMNS)]
    for name, shift in (("concise", 1.5), ("verbose", -1.5)):
        for n in range(instructions):
            length = round(shift + 0.7 * _wave(n, 1.7 + shift / 10), 6)
            preference = round(_chance(-1.2 * math.tanh(length) + 0.5 * _wave(n, 2.9)), 6)
            difficulty = round(1.4 * _wave(n, 0.77), 6)
            lines.append(f"{name},{n},{preference},{length},{difficulty},False")
    path.write_text("\n".join(lines) + "\n")


def annotated(case: str) -> list[dict[str, Any]]:
    """The rows of annotations.json in one of the `CASES`."""
    count = 40 if case == "few" else 200
    quality = {"strong": 4.0, "weak": -5.0}.get(case, -0.5)
    rows: list[dict[str, Any]] = []
    for n in range(count):
        lengths = [round(900 + 700 * _wave(n, step)) for step in (1.1, 3.7)]
        ahead = math.tanh((lengths[0] - lengths[1]) / 600)
        value = quality - ahead + 1.1 * _wave(n, 0.77) + 2.5 * _wave(n, 5.3)
        preference: float | None = round(1 + _chance(value), 6)
        if case == "ties" and n % 5 < 2:
            preference = 0 if n % 5 else 1.5
        if case == "unread" and n % 7 == 3:
            preference = None
        outputs = {f"output_{k}": "x" * length for k, length in enumerate(lengths, start=1)}
        names = {"generator_1": "baseline", "generator_2": "model", "annotator": "judge"}
        about = {"index": n, "instruction": f"Do {n}.", "preference": preference}
        rows.append({**about, **outputs, **names})
    if case == "some":
        return [row for row in rows if row["index"] % 3]
    return sorted(rows, key=lambda row: _wave(row["index"], 9.1)) if case == "shuffled" else rows


def figures_of_package(case: str, folder: Path) -> tuple[float, float]:
    """Length-controlled win rate and its standard error, in percent."""
    import pandas

    package = importlib.import_module("alpaca_eval.metrics.glm_winrate")
    write_gamed(folder / "df_gamed.csv")
    package.__dict__["hf_hub_download"] = lambda **_: folder / "df_gamed.csv"
    rows = pandas.DataFrame(annotated(case)).astype({"preference": float})
    found = package.get_length_controlled_winrate(rows, save_weights_dir=None)
    return float(found["length_controlled_winrate"]), float(found["lc_standard_error"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        figures = {case: figures_of_package(case, Path(made)) for case in CASES}
    print(json.dumps(figures, indent=1))
