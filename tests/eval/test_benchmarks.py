"""The table of benchmarks, and what may know of a benchmark."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from veridical import report
from veridical.eval import compare
from veridical.eval.benchmark import Benchmark, Statistic, differences, find_benchmark, score_rows
from veridical.eval.benchmarks import BENCHMARKS
from veridical.eval.run import inputs_of
from veridical.eval.scores import described, read_scores, write_scores
from veridical.runtime.descriptions import (
    BenchmarkDescription,
    MetricDescription,
    read_description,
)
from veridical.runtime.errors import UserError
from veridical.runtime.run_files import DescribedBenchmark, DescribedMetric
from veridical.scoring.object_scores import CHAIR, COUNTED
from veridical.scoring.statistics import Difference, Estimate, Metric, Ratio, sum_by_cluster

ALL = [find_benchmark(name) for name in BENCHMARKS]


def test_report_and_compare_name_no_benchmark() -> None:
    """Neither a name nor a metric's name that only one benchmark has."""
    assert report.__file__ is not None and compare.__file__ is not None
    folder = Path(report.__file__).parent
    files = [path for path in folder.rglob("*") if path.suffix in (".py", ".j2")]
    named = re.compile("|".join(["chair", "pope", *(f"{n}/" for n in BENCHMARKS)]), re.IGNORECASE)
    assert len(files) > 10
    for path in [*files, Path(compare.__file__)]:
        assert not named.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("benchmark", ALL, ids=lambda benchmark: benchmark.name)
def test_every_metric_is_described(benchmark: Benchmark) -> None:
    computed = [formula.name for formula in benchmark.formulas]
    computed += [statistic.name for statistic in benchmark.statistics]
    names = [metric.name for metric in benchmark.description.metrics]
    assert sorted(names) == sorted(computed)
    assert benchmark.description.headline in names
    assert BENCHMARKS[benchmark.name].module
    assert benchmark.judged in ("answers.jsonl", "details.jsonl", "rewards.jsonl")


def test_training_counts_what_is_described() -> None:
    for name, (description, formulas) in COUNTED.items():
        assert description == find_benchmark(name).description
        assert formulas.keys() <= {metric.name for metric in description.metrics}


def test_a_description_comes_back_from_its_file() -> None:
    assert read_description({**CHAIR.as_json(), "of a later version": 1}) == CHAIR
    for shape, noun in (
        (DescribedBenchmark, BenchmarkDescription),
        (DescribedMetric, MetricDescription),
    ):
        assert set(shape.__annotations__) == {field.name for field in fields(noun)}


def test_scores_say_whose_they_are(tmp_path: Path) -> None:
    benchmark = find_benchmark("pope")
    write_scores(tmp_path, benchmark, {"accuracy": Estimate(0.5, 0.1, 0.9, 4, 2)})
    assert read_scores(tmp_path)["accuracy"]["value"] == 0.5
    assert described(benchmark)["place"] == list(BENCHMARKS).index("pope")


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(UserError, match=r"no benchmark 'mme'; there is: chair, pope"):
        find_benchmark("mme")


def test_files_of_one_name_are_both_recorded() -> None:
    """Of two files `held_out.jsonl` in two folders each is an input of its own."""
    files = [Path("a/held_out.jsonl"), Path("b/held_out.jsonl"), Path("c.jsonl")]
    assert dict(inputs_of({"data": files, "out": Path("d")})) == {
        "data/a/held_out.jsonl": files[0], "data/b/held_out.jsonl": files[1],
        "data/c.jsonl": files[2],
    }  # fmt: skip
    deeper = [Path("a/pairs/pairs.parquet"), Path("b/pairs/pairs.parquet")]
    assert dict(inputs_of({"data": deeper})) == {f"data/{path}": path for path in deeper}


def test_groups_and_other_statistics_are_scored_like_the_rest() -> None:
    """Three rows of two images: right are 1, 0 and 1; of group "a" the first two."""

    def longest(rows: Any) -> Estimate:
        return Estimate(max(row["length"] for row in rows), None, None, len(rows), 1)

    def longer(ours: Any, theirs: Any) -> Difference:
        sides = [float(max(row["length"] for row in rows)) for rows in (ours, theirs)]
        return Difference(sides[0] - sides[1], None, None, None, sides[0], sides[1], 2)

    benchmark = Benchmark(
        description=CHAIR,
        judged="answers.jsonl",
        sums=lambda rows: sum_by_cluster(
            (row["image_id"], {"right": row["right"], "rows": 1.0}) for row in rows
        ),
        formulas=[Metric("right", Ratio("right", "rows"), "rows")],
        same=["image_id"],
        facts="rows",
        statistics=[
            Statistic("longest", lambda rows: all("length" in r for r in rows), longest, longer)
        ],
        groups=lambda rows: {"a": [row for row in rows if row["group"] == "a"]},
    )
    rows: list[dict[str, Any]] = [
        {"image_id": "1", "right": 1.0, "group": "a", "length": 3},
        {"image_id": "2", "right": 0.0, "group": "a", "length": 5},
        {"image_id": "2", "right": 1.0, "group": "b", "length": 7},
    ]
    found = {name: score.value for name, score in score_rows(benchmark, rows).items()}
    assert found == {"right": pytest.approx(2 / 3), "longest": 7, "a/right": 0.5, "a/longest": 5}
    worse = [{**row, "right": 0.0, "length": 3} for row in rows]
    changes = differences(benchmark, rows, worse)
    assert {name: change.value for name, change in changes.items()} == {
        "right": pytest.approx(2 / 3), "longest": 4.0, "a/right": 0.5, "a/longest": 2.0,
    }  # fmt: skip
    without = [{k: v for k, v in row.items() if k != "length"} for row in rows]
    assert set(differences(benchmark, rows, without)) == {"right", "a/right"}
