"""Each metric of an evaluation on every answer alone, by which a page sorts and filters answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veridical.eval.benchmark import Benchmark, find_benchmark
from veridical.eval.benchmarks import BENCHMARKS
from veridical.runtime.run_files import SCORES, read_judged
from veridical.scoring.statistics.sums import totals


def scores_of_answers(folder: Path) -> list[dict[str, float]]:
    """Each metric's value on every judged answer alone, in the order of their file.

    A metric is left out where it has no value, such as a share of mentions in an answer without
    any. Metrics that only many answers have, such as an area under a curve, are left out too.

    Returns:
        A row for each answer; none if the run was not scored, or by a benchmark of another version.

    Raises:
        UserError: a file of the run can't be read.
    """
    if not (folder / SCORES.name).is_file():
        return []
    name = SCORES.read(folder)["benchmark"]["name"]
    if name not in BENCHMARKS:
        return []
    benchmark = find_benchmark(name)
    path = folder / benchmark.judged
    return [_alone(benchmark, row) for row in read_judged(path)] if path.is_file() else []


def _alone(benchmark: Benchmark, row: Mapping[str, Any]) -> dict[str, float]:
    if not {*benchmark.same, *benchmark.needs} <= set(row):
        return {}
    columns = totals(benchmark.sums([row]).columns)
    if not columns:
        return {}
    values = {one.name: float(one.formula(columns)) for one in benchmark.formulas}
    return {name: round(value, 6) for name, value in values.items() if math.isfinite(value)}
