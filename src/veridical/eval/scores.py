"""Scores on disk and on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from veridical.runtime.files import write_json
from veridical.runtime.shards import say
from veridical.scoring.statistics import Estimate


def write_scores(folder: Path, scores: Mapping[str, Estimate], **about: str | float) -> None:
    """Write `scores.json`: `{metric: {"value", "low", "high", "n", "clusters", "method"}}`.

    What the data leave undefined is null, and a `note` says why.

    Args:
        folder: the run's.
        scores: by metric.
        **about: what stands beside the metrics: by what they were counted, and plain shares. Each
            name is one of `run_files.BESIDE_SCORES`.
    """
    metrics = {name: score.as_json() for name, score in scores.items()}
    write_json(folder / "scores.json", {**metrics, **about})


def print_scores(scores: Mapping[str, Estimate]) -> None:
    """A line for each metric: value, 95 % interval, what it was counted on."""
    width = max(len(name) for name in scores)
    say(f"{'metric':<{width}}   value   95 % interval         n  images")
    for name, score in scores.items():
        interval = f"[{number(score.low)}, {number(score.high)}]"
        say(
            f"{name:<{width}}  {number(score.value)}  {interval}  "
            f"{score.n:>6}  {score.clusters:>6}  {score.note}".rstrip()
        )


def number(value: float | None, sign: bool = False) -> str:
    """Six characters (seven with the sign); three decimals, or one for numbers from 10 on."""
    width = 7 if sign else 6
    if value is None:
        return "-".rjust(width)
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return (f"+{text}" if sign and value > 0 else text).rjust(width)
