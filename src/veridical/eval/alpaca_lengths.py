"""AlpacaEval 2's length-controlled win rate: its published file, and the metric."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from veridical.eval.asks import Row
from veridical.eval.benchmark import Rows, Statistic
from veridical.eval.harness_logs import read_separated
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.scoring.length_control import Comparisons, control_lengths, standardized
from veridical.scoring.statistics import Difference, Estimate, FloatArray
from veridical.scoring.statistics.intervals import degrees, share_interval
from veridical.scoring.statistics.paired import as_difference
from veridical.scoring.statistics.signs import sign_test
from veridical.scoring.statistics.single import METHODS, ONE_CLUSTER

NAME = "length_controlled_win_rate"
WHERE = (
    "df_gamed.csv of the data set tatsu-lab/alpaca_eval on the hub: "
    "hf download --repo-type dataset tatsu-lab/alpaca_eval df_gamed.csv"
)
NUMBERS = ("index", "preference", "std_delta_len", "instruction_difficulty")
COLUMNS = (*NUMBERS, "not_gamed_baseline")
SAME_LENGTHS = "undefined: all answers differ from the baseline's by the same length"
NO_PREFERENCE = "undefined: no answer has a preference"


@dataclass(frozen=True)
class GamedBaselines:
    """The published file.

    Attributes:
        comparisons: of baselines that were made longer and shorter on purpose.
        difficulty: of each instruction, by its number as a text.
    """

    comparisons: Comparisons
    difficulty: Mapping[str, float]


def read_gamed(path: Path) -> GamedBaselines:
    """Read df_gamed.csv.

    An instruction's difficulty is that of its first row.

    Raises:
        UserError: it is not there or is not of its form, or scikit-learn is not installed.
    """
    if not path.is_file():
        raise UserError(f"--length-controlled {path} is not a file. Give {WHERE}")
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "--length-controlled needs scikit-learn, which fits its regression: install "
            "veridical[text]."
        )
    rows = read_separated(path, ",")
    if not rows or not all(name in rows[0] for name in COLUMNS):
        raise UserError(
            f"{path} needs rows with {', '.join(COLUMNS)}. Give --length-controlled {WHERE}"
        )
    table = np.array([_numbers(row, f"{path}, row {n}") for n, row in enumerate(rows, start=1)])
    index, preferences, lengths, difficulties, plain = table.T
    places = {str(int(own)): n for n, own in reversed(list(enumerate(index)))}
    return GamedBaselines(
        Comparisons(lengths, difficulties, plain, preferences),
        {id: float(difficulties[n]) for id, n in places.items()},
    )


def _numbers(row: Mapping[str, str], place: str) -> list[float]:
    """The columns of a row; a preference may be missing."""
    found = []
    for name in NUMBERS:
        text = row[name].strip()
        missing = name == "preference" and text.lower() in ("", "nan")
        try:
            number = math.nan if missing else float(text)
        except ValueError:
            number = math.inf
        fits = math.isfinite(number) and (name != "index" or number == int(number))
        if not missing and not (fits and (name != "preference" or 0 <= number <= 1)):
            wanted = {"index": "a whole number", "preference": "a number from 0 to 1"}
            raise UserError(
                f"{place}: {name} must be {wanted.get(name, 'a number')}, not {text!r}."
            )
        found.append(number)
    flag = row["not_gamed_baseline"].strip().lower()
    if flag not in ("true", "false"):
        raise UserError(f"{place}: not_gamed_baseline must be True or False, not {flag!r}.")
    return [*found, float(flag == "true")]


def with_equal_lengths(rows: Sequence[JsonObject], gamed: GamedBaselines) -> list[JsonObject]:
    """Judged rows, each with its preference at equal lengths, and how much it moves their mean.

    Raises:
        UserError: an instruction has no difficulty, or the answers are of several models.
    """
    ids = [str(row["question_id"]) for row in rows]
    unknown = [id for id in ids if id not in gamed.difficulty]
    if unknown:
        raise UserError(
            f"--length-controlled has no difficulty of {len(unknown)} of {len(rows)} instructions "
            f"({', '.join(unknown[:5])}). An instruction's number is its place among the "
            "published 805, from 0, or its `index`."
        )
    models = {str(row["generator"]) for row in rows if row.get("generator")}
    if len(models) > 1:
        raise UserError(
            f"--length-controlled is of one model's answers; generator_2 names {len(models)}: "
            f"{', '.join(sorted(models)[:5])}. Score each by itself."
        )
    difficulties = [gamed.difficulty[id] for id in ids]
    found = _at_equal_lengths(rows, np.array(difficulties), gamed.comparisons)
    return [
        {**row, "difficulty": difficulty, "equal_lengths": value, "moved": moved}
        for row, difficulty, (value, moved) in zip(rows, difficulties, found, strict=True)
    ]


def _at_equal_lengths(
    rows: Sequence[Row], difficulties: FloatArray, gamed: Comparisons
) -> Sequence[tuple[float | None, float]]:
    if all(row.get("generator") and row["generator"] == row.get("baseline") for row in rows):
        return [(None if row["preference"] is None else 0.5, 0.0) for row in rows]
    lengths = standardized(
        np.array([row["baseline_length"] - row["length"] for row in rows], dtype=np.float64)
    )
    if lengths is None:
        return [(None, 0.0)] * len(rows)
    preferences = [math.nan if row["preference"] is None else row["preference"] - 1 for row in rows]
    if all(map(math.isnan, preferences)):
        return [(None, 0.0)] * len(rows)  # the regression would predict from the gamed ones alone
    own = Comparisons(lengths, difficulties, np.ones(len(rows)), np.array(preferences))
    fitted = control_lengths(own, gamed)
    return list(zip(fitted.preferences.tolist(), fitted.moved.tolist(), strict=True))


def printed_at_equal_lengths(rows: Rows) -> dict[str, float]:
    """As the leaderboards print it, in percent; nothing of fewer than two preferences.

    Their standard error is that of the predictions: it takes the regression as known.
    """
    known = np.array([row["equal_lengths"] for row in rows if _has(row)], dtype=np.float64)
    if len(known) < 2:
        return {}
    return {
        f"printed/{NAME}": float(100 * known.mean()),
        "printed/lc_standard_error": float(100 * known.std(ddof=1) / math.sqrt(len(known))),
    }


def _has(row: Row) -> bool:
    return row.get("equal_lengths") is not None


def _applies(rows: Rows) -> bool:
    return bool(rows) and all("equal_lengths" in row for row in rows)


def _estimate(rows: Rows) -> Estimate:
    """Answers without a preference have a prediction too, but say nothing of how sure it is."""
    known, images = [row for row in rows if _has(row)], len(rows)
    count = sum(row["preference"] is not None for row in known)
    if not count:
        return Estimate(None, None, None, 0, images, _why_undefined(rows))
    value = float(np.mean([row["equal_lengths"] for row in known]))
    if count < 2:
        return Estimate(value, None, None, count, images, ONE_CLUSTER)
    moved = np.array([row["moved"] for row in known])
    variance = (moved**2).sum() * count / (count - 1)
    low, high = share_interval(
        np.array(value), np.array(variance), np.array(float(count)), np.array(1.0), degrees(moved)
    )
    return Estimate(value, float(low), float(high), count, images, "", METHODS["share"])


def _why_undefined(rows: Rows) -> str:
    none = all(row["preference"] is None for row in rows)
    return NO_PREFERENCE if none else SAME_LENGTHS


def _compare(ours: Rows, theirs: Rows) -> Difference:
    values = _estimate(ours).value, _estimate(theirs).value
    others = {row["image_id"]: row for row in theirs}
    pairs = [(row, others[row["image_id"]]) for row in ours]

    def undefined(note: str) -> Difference:
        return Difference(None, None, None, None, *values, len(pairs), note)

    if values[0] is None or values[1] is None:
        return undefined(_why_undefined(ours if values[0] is None else theirs))
    if any(row["difficulty"] != other["difficulty"] for row, other in pairs):
        return undefined("undefined: the two have other files of gamed baselines")
    value, count = values[0] - values[1], len(pairs)
    if count < 2:
        return Difference(value, None, None, None, *values, count, ONE_CLUSTER)
    differing = [
        any(row[name] != other[name] for name in ("preference", "length")) for row, other in pairs
    ]
    gains = np.array([row["moved"] - other["moved"] for row, other in pairs]) + value / count
    event = np.array(1 / count)
    found = sign_test(np.array(value), gains, event, np.array(float(sum(differing))))
    return as_difference(found, values[0], values[1], count, sum(differing))


STATISTIC = Statistic(NAME, _applies, _estimate, _compare)
