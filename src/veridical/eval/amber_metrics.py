"""What AMBER counts of each answer, and its metrics as formulas on these counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.eval.amber_files import GENERATIVE, KINDS
from veridical.eval.benchmark import Rows
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.scoring.amber_rules import printed_figures, printed_yes_no
from veridical.scoring.statistics import (
    ClusterSums,
    FloatArray,
    Metric,
    Ratio,
    Sums,
    sum_by_cluster,
)

COLUMNS = (
    "answers", "descriptions", "wrong_descriptions", "without_nouns", "nouns", "hallucinated",
    "covered", "objects", "lured", "lures",
    "questions", "right", "is_no", "said_no", "true_no", "unparsed",
)  # fmt: skip


def amber_counts(row: Mapping[str, Any]) -> dict[str, float]:
    """What one judged row adds to each column."""
    counts = dict.fromkeys(COLUMNS, 0.0) | {"answers": 1.0}
    if row["type"] == GENERATIVE:
        return counts | {
            "descriptions": 1.0,
            "wrong_descriptions": float(bool(row["hallucinated"])),
            "without_nouns": float(not row["nouns"]),
            "nouns": float(len(row["nouns"])),
            "hallucinated": float(len(row["hallucinated"])),
            **{name: float(row[name]) for name in ("covered", "objects", "lured", "lures")},
        }
    expected, parsed = row["expected"], row["parsed"]
    return counts | {
        "questions": 1.0,
        "right": float(parsed == expected),
        "is_no": float(expected == "no"),
        "said_no": float(parsed == "no"),
        "true_no": float(parsed == expected == "no"),
        "unparsed": float(parsed is None),
    }


def amber_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows, added up by image."""
    return sum_by_cluster((row["image_id"], amber_counts(row)) for row in rows)


def by_kind(rows: Rows) -> dict[str, Rows]:
    """The yes/no rows of each group; attributes count as one group and by their kind."""
    groups = dict.fromkeys(group for own in KINDS.values() for group in own if group != GENERATIVE)
    found = {group: [row for row in rows if group in KINDS[row["type"]]] for group in groups}
    return {group: own for group, own in found.items() if own}


def _twice_true(sums: Sums) -> FloatArray:
    return 2 * sums["true_no"]


def _said_or_is(sums: Sums) -> FloatArray:
    return sums["said_no"] + sums["is_no"]


CHAIR, F1 = Ratio("hallucinated", "nouns"), Ratio(_twice_true, _said_or_is)


def amber_score(sums: Sums) -> FloatArray:
    """The AMBER score: the mean of 1 - CHAIR and of the yes/no F1."""
    score: FloatArray = (1 - CHAIR(sums) + F1(sums)) / 2
    return score


FORMULAS = (
    Metric("score", amber_score, "answers", "combination"),
    Metric("chair", CHAIR, "nouns"),
    Metric("cover", Ratio("covered", "objects"), "objects"),
    Metric("hal", Ratio("wrong_descriptions", "descriptions"), "descriptions"),
    Metric("cog", Ratio("lured", "lures"), "lures"),
    Metric("without_nouns", Ratio("without_nouns", "descriptions"), "descriptions"),
    Metric("accuracy", Ratio("right", "questions"), "questions"),
    Metric("precision", Ratio("true_no", "said_no"), "said_no"),
    Metric("recall", Ratio("true_no", "is_no"), "is_no"),
    Metric("f1", F1, "questions"),
    Metric("unparsed", Ratio("unparsed", "questions"), "questions"),
)
IN_GROUPS = ("accuracy", "precision", "recall", "f1", "unparsed")

AMBER = BenchmarkDescription(
    name="amber",
    title="AMBER",
    done="Images were described, and yes/no questions asked",
    headline="score",
    meaning="the mean of 1 - CHAIR and of the yes/no F1",
    asked="answers about",
    metrics=(
        MetricDescription(
            "score", "AMBER score", "mean of 1 - CHAIR and F1", better="higher", shown="top"
        ),
        MetricDescription(
            "chair", "Nouns not in the image", "AMBER CHAIR", better="lower", shown="table"
        ),
        MetricDescription(
            "cover", "Listed objects mentioned", "AMBER Cover", better="higher", shown="table"
        ),
        MetricDescription(
            "hal", "Descriptions with a hallucination", "AMBER Hal", better="lower", shown="table"
        ),
        MetricDescription(
            "cog", "Expected inventions mentioned", "AMBER Cog", better="lower", shown="table"
        ),
        MetricDescription(
            "without_nouns", "Descriptions without a noun that counts", "AMBER", better="lower",
            caution="Such a description names nothing wrong, so chair and hal do not compare like "
            "with like.",
        ),
        MetricDescription(
            "f1", "F1 of no", "AMBER F1", better="higher", shown="table"
        ),
        MetricDescription("accuracy", "Yes/no accuracy", "AMBER accuracy", better="higher"),
        MetricDescription("precision", "Precision of no", "AMBER precision", better="higher"),
        MetricDescription("recall", "Recall of no", "AMBER recall", better="higher"),
        MetricDescription(
            "unparsed", "Answers neither yes nor no", "AMBER, counted as wrong", better="lower"
        ),
    ),
)  # fmt: skip
"""What AMBER is called, and how its metrics are shown."""


def official_figures(rows: Rows) -> dict[str, float]:
    """What the published scorer prints for these rows, in percent, of groups as "group/metric"."""
    figures = printed_figures(_totals(rows))
    for group, own in by_kind(rows).items():
        added = 0.001 if group == "existence" else 0.0001
        # It adds up the denominators of the three kinds of attribute, which begin at 0.001 each.
        started = 3 if group == "attribute" else 1
        printed = printed_yes_no(_totals(own), added, started)
        figures |= {f"{group}/{name}": value for name, value in printed.items()}
    return figures


def _totals(rows: Rows) -> dict[str, float]:
    sums = amber_sums(rows)
    return {name: float(column.sum()) for name, column in sums.columns.items()}
