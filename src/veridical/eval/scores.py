"""Scores on disk and on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from veridical.eval.benchmark import Benchmark
from veridical.eval.benchmarks import place_of
from veridical.runtime import run_files
from veridical.runtime.files import write_json
from veridical.runtime.json_types import JsonObject
from veridical.runtime.run_files import ScoreEntry
from veridical.runtime.shards import print_result
from veridical.scoring.statistics import Estimate

SCORES = run_files.SCORES.name


def described(benchmark: Benchmark) -> JsonObject:
    """What files say of a benchmark, so that they can be shown without knowing it."""
    description = benchmark.description
    return replace(description, place=place_of(description.name)).as_json()


def write_scores(
    folder: Path,
    benchmark: Benchmark,
    scores: Mapping[str, Estimate],
    about: Mapping[str, str | float] | None = None,
) -> None:
    """Write `scores.json`: the benchmark, its scores, and what stands beside them.

    A score is {"value", "low", "high", "n", "clusters", "method"}. What the data leave undefined is
    null, and a `note` says why.

    Args:
        folder: the run's.
        benchmark: whose scores they are.
        scores: by metric.
        about: by what they were counted, and plain shares.
    """
    content = {
        "benchmark": described(benchmark),
        "scores": {name: score.as_json() for name, score in scores.items()},
        "about": dict(about or {}),
    }
    write_json(folder / SCORES, content)


def read_scores(folder: Path) -> dict[str, ScoreEntry]:
    """The scores that `write_scores` wrote, by metric."""
    return run_files.SCORES.read(folder)["scores"]


def print_scores(scores: Mapping[str, Estimate]) -> None:
    """A line for each metric: value, 95 % interval, what it was counted on."""
    width = max(len(name) for name in scores)
    print_result(f"{'metric':<{width}}   value   95 % interval         n  images")
    for name, score in scores.items():
        interval = f"[{fixed_width(score.low)}, {fixed_width(score.high)}]"
        print_result(
            f"{name:<{width}}  {fixed_width(score.value)}  {interval}  "
            f"{score.n:>6}  {score.clusters:>6}  {score.note}".rstrip()
        )


def fixed_width(value: float | None, sign: bool = False) -> str:
    """Six characters (seven with the sign); three decimals, or one for numbers from 10 on."""
    width = 7 if sign else 6
    if value is None:
        return "-".rjust(width)
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return (f"+{text}" if sign and value > 0 else text).rjust(width)
