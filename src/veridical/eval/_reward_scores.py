"""What is said of a reward model's pairs: formulas on sums, with intervals clustered by image."""

from __future__ import annotations

import math

import numpy as np

from veridical.eval.benchmark import Rows
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.scoring.statistics import (
    Bin,
    CalibrationGap,
    ClusterSums,
    FloatArray,
    Metric,
    Ratio,
    Sums,
    ratio,
    sum_by_cluster,
)

BINS = 10


def by_group(rows: Rows) -> dict[str, Rows]:
    """Pairs of each group that is not all of them, such as "kind=colour"."""
    groups = sorted({group for row in rows for group in row.get("groups", ())})
    found = {group: [row for row in rows if group in row.get("groups", ())] for group in groups}
    return {group: own for group, own in found.items() if len(own) < len(rows)}


def reward_metrics() -> tuple[Metric, ...]:
    """The metrics as formulas on the columns of `reward_sums`."""

    def correlation(sums: Sums) -> FloatArray:
        """Pearson's, from sums."""
        n = sums["pairs"]
        shared = n * sums["margin_words"] - sums["margin"] * sums["words"]
        spread = (n * sums["margin_squared"] - sums["margin"] ** 2) * (
            n * sums["words_squared"] - sums["words"] ** 2
        )
        # Rounding leaves a spread of nothing a little off zero.
        scale = n**2 * sums["margin_squared"] * sums["words_squared"]
        return ratio(shared, np.sqrt(np.where(spread > 1e-12 * scale, spread, 0.0)))

    bins = [Bin(f"right_{i}", f"confidence_{i}", f"doubt_{i}") for i in range(BINS)]
    return (
        Metric("accuracy", Ratio("right", "pairs"), "pairs"),
        Metric("margin", Ratio("margin", "pairs"), "pairs", "mean"),
        # A pair ranked wrongly costs at least log 2, and one ranked with confidence 1 and more.
        Metric("log_loss", Ratio("log_loss", "pairs"), "pairs", "mean", limit=0.0, event=1.0),
        Metric("calibration_error", CalibrationGap(bins, "pairs"), "pairs", "gap"),
        Metric("length_correlation", correlation, "pairs", "correlation"),
        Metric("longer_preferred", Ratio("longer_preferred", "unequal"), "unequal"),
        Metric("longer_chosen", Ratio("longer_chosen", "unequal"), "unequal"),
    )


def reward_sums(rows: Rows) -> ClusterSums:
    """What the metrics are made of, added up by image."""
    return sum_by_cluster((row["image_id"], _counts(row["margin"], row["words"])) for row in rows)


REWARD = BenchmarkDescription(
    name="reward",
    title="reward model",
    done="A reward model was asked about pairs",
    headline="accuracy",
    meaning="the share of pairs in which the reward model prefers the chosen answer",
    asked="pairs about",
    metrics=(
        MetricDescription(
            "accuracy", "Pairs ranked correctly", "accuracy of the reward model",
            better="higher", shown="table",
        ),
        MetricDescription(
            "margin", "Margin", "mean difference of rewards", unit="number", shown="table"
        ),
        MetricDescription(
            "calibration_error", "Calibration error", "expected calibration error",
            better="lower", shown="table",
        ),
        MetricDescription(
            "length_correlation", "Correlation with length", "of margin and difference in words",
            unit="number", shown="table",
        ),
        MetricDescription("log_loss", "Log loss", "in nats", unit="number", better="lower"),
        MetricDescription("longer_preferred", "Longer answer preferred", "by the reward model"),
        MetricDescription("longer_chosen", "Longer answer chosen", "in the pairs"),
    ),
)  # fmt: skip


def _counts(margin: float, words: int) -> dict[str, float]:
    """Of one pair; `words` is how many more the chosen answer has."""
    right = 0.5 if margin == 0 else float(margin > 0)
    confidence = 1 / (1 + math.exp(-abs(margin))) if abs(margin) < 700 else 1.0
    place = min(int((confidence - 0.5) * 2 * BINS), BINS - 1)
    longer = 0.5 if margin == 0 else float((margin > 0) == (words > 0))
    return {
        "pairs": 1.0,
        "right": right,
        "margin": margin,
        "log_loss": float(np.logaddexp(0.0, -margin)),
        "words": float(words),
        "margin_squared": margin**2,
        "words_squared": float(words**2),
        "margin_words": margin * words,
        "unequal": float(words != 0),
        "longer_preferred": longer if words else 0.0,
        "longer_chosen": float(words > 0),
        **{f"right_{i}": right if i == place else 0.0 for i in range(BINS)},
        **{f"confidence_{i}": confidence if i == place else 0.0 for i in range(BINS)},
        **{f"doubt_{i}": confidence * (1 - confidence) * (i == place) for i in range(BINS)},
    }
