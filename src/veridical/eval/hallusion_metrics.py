"""What HallusionBench counts, and its metrics as formulas on these counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from veridical.eval.asks import Row
from veridical.eval.benchmark import Rows
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.scoring.statistics import (
    ClusterSums,
    FloatArray,
    Metric,
    Ratio,
    Sums,
    sum_by_cluster,
)

Rule: TypeAlias = Literal["corrected", "official"]
Outcome: TypeAlias = Literal["correct", "incorrect", "unclear"]


def without_figure(row: Row) -> bool:
    """Whether it is a question about a figure that is not shown."""
    return bool(row["category"] == "VS" and row["figure_id"] == "0")


def is_right(outcome: Outcome, row: Row) -> bool:
    """Correct, or unclear where no figure is shown: then it is right not to know."""
    return outcome == "correct" or (outcome == "unclear" and without_figure(row))


def is_hard(row: Row) -> bool:
    """Whether the question is about an edited figure."""
    return bool(row["visual_input"] == "2")


COUNTS = ("answers", "right", "unclear", "unread", "rows", "said_yes", "is_yes", "wrong",
          "wrong_yes")  # fmt: skip


def row_counts(row: Row) -> dict[str, float]:
    """What one judged row adds to each column; one that could not be read only `unread`."""
    if row["right"] is None:
        return dict.fromkeys(COUNTS, 0.0) | {"rows": 1.0, "unread": 1.0}
    right, yes = row["right"], row["expected"] == "yes"
    return {
        "answers": 1.0,
        "rows": 1.0,
        "unread": 0.0,
        "right": float(right),
        "unclear": float(row["outcome"] == "unclear"),
        "said_yes": float(right == yes),
        "is_yes": float(yes),
        "wrong": float(not right),
        "wrong_yes": float(not right and not yes),
    }


def _pair(row: Row) -> tuple[str, ...]:
    return row["category"], row["subcategory"], row["set_id"], row["question_number"]


def _figure(row: Row) -> tuple[str, ...]:
    return row["category"], row["subcategory"], row["set_id"], row["figure_id"]


UNITS: Mapping[str, tuple[Callable[[Row], bool], Callable[[Row], tuple[str, ...]]]] = {
    "pairs": (lambda row: True, _pair),
    "easy": (lambda row: not is_hard(row), _pair),
    "hard": (is_hard, _pair),
    "figures": (lambda row: not without_figure(row), _figure),
}
"""What is right only as a whole: the rows that belong to it, and what holds them together."""


def unit_sizes(rows: Rows) -> list[dict[str, int]]:
    """How many of the rows there are in each unit that a row belongs to."""
    places = [
        {name: (name, *key(row)) for name, (belongs, key) in UNITS.items() if belongs(row)}
        for row in rows
    ]
    counts = Counter(place for own in places for place in own.values())
    return [{name: counts[place] for name, place in own.items()} for own in places]


def hallusion_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows and of units, added up by set of figures.

    A unit with a row that could not be read, or that was not answered, counts nowhere.
    """
    names = [f"{prefix}{name}" for name in UNITS for prefix in ("", "right_")]
    nothing = dict.fromkeys((*COUNTS, *names), 0.0)
    counted = [(row["image_id"], nothing | row_counts(row)) for row in rows]
    for name, (belongs, key) in UNITS.items():
        units: dict[tuple[str, ...], list[Row]] = {}
        for row in filter(belongs, rows):
            units.setdefault(key(row), []).append(row)
        for own in units.values():
            # Folders of earlier versions do not say how many rows a unit has.
            size = own[0].get("unit_sizes", {}).get(name, len(own))
            if len(own) == size and all(row["right"] is not None for row in own):
                whole = float(all(row["right"] for row in own))
                unit = nothing | {name: 1.0, f"right_{name}": whole}
                counted.append((own[0]["image_id"], unit))
    return sum_by_cluster(counted)


def by_question_kind(rows: Rows) -> dict[str, Rows]:
    """The rows of both categories, and those with and without an image, as units of their own."""
    parted: list[Row] = [{**row, "unit_sizes": row.get("unit_sizes_here", {})} for row in rows]
    groups = {
        "VD": [row for row in rows if row["category"] == "VD"],
        "VS": [row for row in rows if row["category"] == "VS"],
        "with_image": [row for row in parted if row["image"]],
        "without_image": [row for row in parted if not row["image"]],
    }
    return {name: own for name, own in groups.items() if own}


def _more_yes(sums: Sums) -> FloatArray:
    return sums["said_yes"] - sums["is_yes"]


FORMULAS = (
    Metric("aAcc", Ratio("right", "answers"), "answers"),
    Metric("qAcc", Ratio("right_pairs", "pairs"), "pairs"),
    Metric("fAcc", Ratio("right_figures", "figures"), "figures"),
    Metric("easy", Ratio("right_easy", "easy"), "easy"),
    Metric("hard", Ratio("right_hard", "hard"), "hard"),
    Metric("unclear", Ratio("unclear", "answers"), "answers"),
    Metric("unread", Ratio("unread", "rows"), "rows"),
    Metric("yes_difference", Ratio(_more_yes, "answers"), "answers", "mean", scale=(-1.0, 1.0)),
    Metric("false_yes", Ratio("wrong_yes", "wrong"), "wrong"),
)

HALLUSIONBENCH = BenchmarkDescription(
    name="hallusionbench",
    title="HallusionBench",
    done="Yes/no questions were asked about figures and edited copies of them",
    headline="aAcc",
    meaning="the share of questions that were answered correctly",
    asked="questions about",
    metrics=(
        MetricDescription(
            "aAcc", "Questions right", "HallusionBench aAcc", better="higher", shown="top"
        ),
        MetricDescription(
            "qAcc", "Questions right on every figure", "HallusionBench qAcc", better="higher",
            shown="table",
        ),
        MetricDescription(
            "fAcc", "Figures with every question right", "HallusionBench fAcc", better="higher",
            shown="table",
        ),
        MetricDescription(
            "easy", "Questions right on all easy figures", "HallusionBench", better="higher"
        ),
        MetricDescription(
            "hard", "Questions right on all hard figures", "HallusionBench", better="higher"
        ),
        MetricDescription(
            "unclear", "Answers that decide nothing", "HallusionBench, right without a figure"
        ),
        MetricDescription(
            "unread", "Answers that were not judged", "HallusionBench, in no other score",
            better="lower",
            caution="Scores leave such answers out, so that they do not compare like with like.",
        ),
        MetricDescription(
            "yes_difference", "Yes said minus yes right", "HallusionBench, share of answers",
            unit="number",
        ),
        MetricDescription("false_yes", "Wrong answers that say yes", "HallusionBench"),
    ),
)  # fmt: skip
"""What HallusionBench is called, and how its metrics are shown."""
