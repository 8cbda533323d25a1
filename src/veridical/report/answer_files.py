"""Where the answers behind the scores are, and how to look at all of them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from veridical.report.folders import Part
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.pages import VIEW_PORT, answer_field
from veridical.runtime.run_files import ANSWERS

SCENES = "scenes.json"
"""The file that `veridical world make` writes beside its images."""
MOST_VIEWED = 6
"""Runs that a command names at most: more answers do not fit side by side."""


@dataclass(frozen=True)
class AnswerFiles:
    """The answers to one benchmark.

    Attributes:
        anchor: of the place on the page.
        title: of the benchmark.
        files: each run's name with the address of its file, relative to the page.
        command: that shows them side by side.
        metrics: each metric's name with where its answers are.
    """

    anchor: str
    title: str
    files: list[tuple[str, str]]
    command: str
    metrics: dict[str, MetricAnswers]


@dataclass(frozen=True)
class MetricAnswers:
    """The answers behind one metric.

    Attributes:
        anchor: of the place on the page.
        label: of the metric.
        address: of the answers sorted by it, worst first, while the command runs.
    """

    anchor: str
    label: str
    address: str


def answer_files(
    parts: Sequence[Part],
    benchmarks: Mapping[str, BenchmarkDescription],
    metrics: Sequence[str],
    page: Path,
) -> dict[str, AnswerFiles]:
    """The answers that are there, by benchmark.

    Args:
        parts: of the runs.
        benchmarks: by name.
        metrics: that the page shows, each as "benchmark/metric".
        page: the page's file.
    """
    found: dict[str, list[Part]] = {}
    for part in parts:
        if part.kind == "eval" and (part.folder / ANSWERS.name).is_file():
            found.setdefault(part.benchmark, []).append(part)
    return {
        name: AnswerFiles(
            f"answers-{name}",
            benchmarks[name].title if name in benchmarks else name,
            [(part.name, _address(part.folder / ANSWERS.name, page)) for part in own],
            "veridical view " + " ".join(shlex.quote(str(p.folder)) for p in own[:MOST_VIEWED]),
            {
                metric.name: _metric_answers(name, metric, len(own[:MOST_VIEWED]))
                for metric in (benchmarks[name].metrics if name in benchmarks else ())
                if f"{name}/{metric.name}" in metrics
            },
        )
        for name, own in found.items()
    }


def _metric_answers(benchmark: str, metric: MetricDescription, runs: int) -> MetricAnswers:
    query = {"sort": answer_field(metric.name, runs)}
    if metric.better != "higher":
        query["down"] = "1"
    return MetricAnswers(
        f"answers-{benchmark}-{metric.name}",
        metric.label,
        f"http://127.0.0.1:{VIEW_PORT}/s/0?{urlencode(query)}",
    )


def _address(file: Path, page: Path) -> str:
    way = os.path.relpath(file.resolve(), page.resolve().parent)
    return quote("/".join(Path(way).parts))


def is_drawn(part: Part) -> bool:
    """Whether the images of a run are of the drawn world, by the file beside them."""
    named = [value for value in part.record.get("configuration", {}).values() if value]
    base = Path(part.record.get("working_folder") or ".")
    paths = [base / value for value in named if isinstance(value, str) and len(value) < 1000]
    near = (folder for path in paths for folder in (path, path.parent, path.parent.parent))
    return any(_is_file(folder / SCENES) for folder in near)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # an option that is no path
        return False
