"""Intervals and paired tests for scores whose rows come in clusters (the answers of one image)."""

from __future__ import annotations

from veridical.statistics.gaps import Bin, Gap
from veridical.statistics.paired import Difference, compare
from veridical.statistics.single import Estimate, estimate
from veridical.statistics.sums import (
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
    "Gap",
    "Metric",
    "Ratio",
    "Sums",
    "compare",
    "estimate",
    "ratio",
    "sum_by_cluster",
]
