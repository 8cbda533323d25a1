"""Where the answers behind the scores are, and how to look at all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from veridical.report.folders import Part
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.runtime.pages import answer_field, viewed_address
from veridical.runtime.run_files import ANSWERS

SCENES = "scenes.json"
"""The file that `veridical world make` writes beside its images."""
MOST_VIEWED = 6
"""Runs that are shown side by side at most: more answers do not fit."""


@dataclass(frozen=True)
class AnswerFiles:
    """The answers to one benchmark.

    Attributes:
        anchor: of the place on the page.
        title: of the benchmark.
        files: each run's name with the address of its file, relative to the page.
        address: of the answers side by side, while `veridical view` of the page runs.
        beside: of how many runs, the first ones.
        metrics: each metric's name with where its answers are.
    """

    anchor: str
    title: str
    files: list[tuple[str, str]]
    address: str
    beside: int
    metrics: dict[str, MetricAnswers]


@dataclass(frozen=True)
class MetricAnswers:
    """The answers behind one metric.

    Attributes:
        anchor: of the place on the page.
        label: of the metric.
        address: of the answers sorted by it, worst first.
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
    return {
        name: AnswerFiles(
            f"answers-{name}",
            benchmarks[name].title if name in benchmarks else name,
            [(part.name, _address(part.folder / ANSWERS.name, page)) for part in own],
            viewed_address(place),
            min(len(own), MOST_VIEWED),
            {
                metric.name: _metric_answers(place, name, metric, min(len(own), MOST_VIEWED))
                for metric in (benchmarks[name].metrics if name in benchmarks else ())
                if f"{name}/{metric.name}" in metrics
            },
        )
        for place, (name, own) in enumerate(_answered(parts).items())
    }


def _answered(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """The evaluations whose answers are there, by benchmark."""
    found: dict[str, list[Part]] = {}
    for part in parts:
        if part.kind == "eval" and (part.folder / ANSWERS.name).is_file():
            found.setdefault(part.benchmark, []).append(part)
    return found


def _metric_answers(
    place: int, benchmark: str, metric: MetricDescription, runs: int
) -> MetricAnswers:
    query = {"sort": answer_field(metric.name, runs)}
    if metric.better != "higher":
        query["down"] = "1"
    anchor = f"answers-{benchmark}-{metric.name}"
    return MetricAnswers(anchor, metric.label, viewed_address(place, query))


def viewed_sets(parts: Sequence[Part], page: Path) -> str:
    """The folders of each set that `veridical view` of the page opens, as JSON.

    Answers come first, in the order of `answer_files`, then pairs. Folders are relative to the
    page, so that both can be moved together.
    """
    sets = [own[:MOST_VIEWED] for own in _answered(parts).values()]
    sets += [[part] for part in _builds(parts)]
    return json.dumps([[_way(part.folder, page) for part in own] for own in sets])


def pairs_addresses(parts: Sequence[Part]) -> dict[Path, str]:
    """Where each build's pairs are shown, by its folder."""
    first = len(_answered(parts))
    builds = enumerate(_builds(parts), start=first)
    return {part.folder: viewed_address(place) for place, part in builds}


def _builds(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if part.kind == "build"]


def _address(file: Path, page: Path) -> str:
    return quote(_way(file, page))


def _way(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path.resolve(), page.resolve().parent)).as_posix()


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
    except (OSError, ValueError):  # an option that is not a path
        return False
