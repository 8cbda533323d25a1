"""What CHAIR and POPE count of one answer, and the ratios of these counts that are their metrics.

`eval chair` and `eval pope` put intervals around them; training looks at them on the way.
"""

from __future__ import annotations

from collections.abc import Mapping

from veridical.data.object_lists import ObjectCounts
from veridical.scoring.statistics import FloatArray, Ratio, Sums
from veridical.scoring.yes_no_answers import Verdict

DESCRIBE = "Describe this image in detail."
"""What is asked of a model whose description CHAIR counts."""

CHAIR: Mapping[str, Ratio] = {
    "chair_i": Ratio("hallucinated", "mentions"),
    "chair_s": Ratio("wrong_answers", "answers"),
    "recall": Ratio("recalled", "objects"),
    "mean_length": Ratio("words", "answers"),
    "empty": Ratio("empty", "answers"),
}
"""Metrics as formulas on sums of `chair_counts`."""


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


POPE: Mapping[str, Ratio] = {
    "accuracy": Ratio("right", "questions"),
    "precision": Ratio("true_yes", "said_yes"),
    "recall": Ratio("true_yes", "present"),
    "f1": Ratio(_twice_true, _said_or_present),
    "yes_rate": Ratio("said_yes", "questions"),
    "unparsed": Ratio("unparsed", "questions"),
}
"""Metrics as formulas on sums of `pope_counts`; "yes" is the positive class."""


def pope_counts(label: Verdict, parsed: Verdict | None) -> dict[str, float]:
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
