"""Intervals and paired tests for scores whose rows come in clusters (the answers of one image)."""

from __future__ import annotations

from veridical.scoring.statistics.gaps import Bin, CalibrationGap
from veridical.scoring.statistics.paired import Difference, compare
from veridical.scoring.statistics.single import Estimate, estimate
from veridical.scoring.statistics.sums import (
    LEVEL,
    ClusterSums,
    FloatArray,
    Formula,
    Metric,
    Ratio,
    Sums,
    ratio,
    sum_by_cluster,
)

__all__ = [
    "LEVEL",
    "Bin",
    "ClusterSums",
    "Difference",
    "Estimate",
    "FloatArray",
    "Formula",
    "CalibrationGap",
    "Metric",
    "Ratio",
    "Sums",
    "compare",
    "estimate",
    "ratio",
    "sum_by_cluster",
]
