"""What CHAIR and POPE count of one answer, the ratios of these counts, and how these are shown.

`eval chair` and `eval pope` put intervals around them; training measures them on the way.
"""

from __future__ import annotations

from collections.abc import Mapping

from veridical.data.object_lists import ObjectCounts
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.scoring.statistics import FloatArray, Ratio, Sums
from veridical.scoring.yes_no_answers import YesNoVerdict

DESCRIBE = "Describe this image in detail."
"""What is asked of a model whose description CHAIR counts."""

CHAIR_FORMULAS: Mapping[str, Ratio] = {
    "chair_i": Ratio("hallucinated", "mentions"),
    "chair_s": Ratio("wrong_answers", "answers"),
    "recall": Ratio("recalled", "objects"),
    "mean_length": Ratio("words", "answers"),
    "empty": Ratio("empty", "answers"),
}
"""Metrics as formulas on sums of `chair_counts`."""

CHAIR = BenchmarkDescription(
    name="chair",
    title="CHAIR",
    done="Images were described",
    headline="chair_i",
    meaning="the share of mentioned objects that are not in the picture",
    asked="descriptions of",
    metrics=(
        MetricDescription(
            "chair_i", "Hallucinated mentions", "CHAIR_I: of all objects mentioned",
            better="lower", shown="top", curve="mentions wrong",
        ),
        MetricDescription(
            "chair_s", "Answers with a hallucination", "CHAIR_S: of all answers",
            better="lower", shown="table", curve="answers wrong",
        ),
        MetricDescription(
            "recall", "Objects found", "recall: of all objects shown",
            better="higher", shown="top", curve="recall",
        ),
        MetricDescription(
            "mean_length", "Length of the answers", "mean, in words", unit="words", shown="top"
        ),
        MetricDescription(
            "exact_score", "Exact judge's score", "mean over answers",
            unit="number", better="higher",
        ),
        MetricDescription(
            "empty", "Empty answers", "of all answers", better="lower",
            caution="An empty answer names nothing wrong, so chair_i and chair_s do not compare "
            "like with like.",
        ),
    ),
)  # fmt: skip
"""What CHAIR is called, and how its metrics are shown."""


def chair_counts(counts: ObjectCounts) -> dict[str, float]:
    """What one description adds to each column of CHAIR's sums."""
    return {
        "answers": 1,
        "wrong_answers": float(counts.hallucinated > 0),
        "mentions": counts.mentions,
        "hallucinated": counts.hallucinated,
        "recalled": counts.recalled,
        "objects": counts.listed,
        "words": counts.words,
        "empty": float(not counts.words),
    }


def _twice_true(sums: Sums) -> FloatArray:
    return 2 * sums["true_yes"]


def _said_or_present(sums: Sums) -> FloatArray:
    return sums["said_yes"] + sums["present"]


POPE_FORMULAS: Mapping[str, Ratio] = {
    "accuracy": Ratio("right", "questions"),
    "precision": Ratio("true_yes", "said_yes"),
    "recall": Ratio("true_yes", "present"),
    "f1": Ratio(_twice_true, _said_or_present),
    "yes_rate": Ratio("said_yes", "questions"),
    "unparsed": Ratio("unparsed", "questions"),
}
"""Metrics as formulas on sums of `pope_counts`; "yes" is the positive class."""

POPE = BenchmarkDescription(
    name="pope",
    title="POPE",
    done="Yes/no questions were asked",
    headline="accuracy",
    meaning="the share of yes/no questions that were answered correctly",
    asked="questions about",
    metrics=(
        MetricDescription(
            "accuracy", "Yes/no questions right", "POPE accuracy",
            better="higher", shown="top", curve="accuracy",
        ),
        MetricDescription(
            "auc", "Yes/no separation", "POPE, area under the ROC curve",
            unit="share", better="higher", shown="table",
        ),
        MetricDescription("f1", "Yes/no F1", "POPE F1", better="higher", shown="table"),
        MetricDescription(
            "yes_rate", "Answers that are yes", "POPE yes-rate", shown="table", curve="yes"
        ),
        MetricDescription("precision", "Yes/no precision", "POPE precision", better="higher"),
        MetricDescription("recall", "Yes/no recall", "POPE recall", better="higher"),
        MetricDescription(
            "unparsed", "Answers neither yes nor no", "POPE, counted as wrong", better="lower"
        ),
    ),
)  # fmt: skip
"""What POPE is called, and how its metrics are shown."""


def pope_counts(label: YesNoVerdict, parsed: YesNoVerdict | None) -> dict[str, float]:
    """What one answer adds to each column of POPE's sums.

    Args:
        label: the true answer.
        parsed: what was said; None if it says neither.
    """
    return {
        "questions": 1,
        "right": float(parsed == label),
        "present": float(label == "yes"),
        "true_yes": float(parsed == label == "yes"),
        "false_yes": float(parsed == "yes" and label == "no"),
        "said_yes": float(parsed == "yes"),
        "unparsed": float(parsed is None),
    }


COUNTED: Mapping[str, tuple[BenchmarkDescription, Mapping[str, Ratio]]] = {
    "chair": (CHAIR, CHAIR_FORMULAS),
    "pope": (POPE, POPE_FORMULAS),
}
"""What training can measure on the way; a figure is logged as "benchmark/metric"."""
