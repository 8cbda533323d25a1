"""Two evaluations of the same images, compared image by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

from veridical.eval.asks import Row
from veridical.eval.benchmark import Benchmark, differences, find_benchmark, seed_differences
from veridical.eval.benchmarks import place_of
from veridical.eval.comparison_tables import (
    HOLM,
    alignment_tax,
    describe_tax,
    difference_table,
    shown_p,
    tax_table,
    with_holm,
)
from veridical.eval.scores import SCORES, described, fixed_width
from veridical.runtime import run_files
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.progress import counted
from veridical.runtime.run_files import DifferenceRow, read_judged
from veridical.runtime.run_record import RECORD, read_fields, unfinished
from veridical.runtime.runs import start_run
from veridical.scoring.statistics import Difference

# Options that may differ: who answered, and where files are (that what they say is the same is
# checked on the judged rows).
_OWN = frozenset(
    {
        "model",
        "out",
        "answers",
        "batch_size",
        "cache",
        "cache_gigabytes",
        "vision_cache",
        "device",
        "objects",
        "images",
        "questions",
        "files",
        "length_controlled",
        "replies",
        "data",
        "shard",
    }
)


@dataclass(frozen=True)
class ComparedRuns:
    """Two evaluations by one benchmark."""

    benchmark: Benchmark
    baseline: Path
    candidate: Path

    @property
    def inputs(self) -> dict[str, Path]:
        """The files that are compared, by role."""
        return {
            "baseline": self.baseline / self.benchmark.judged,
            "candidate": self.candidate / self.benchmark.judged,
        }


def eval_compare(
    baseline: Path,
    candidate: Path,
    out: Path,
    also: list[Path] | None = None,
    seeds: bool = False,
) -> list[DifferenceRow]:
    """Compare two or more evaluations by the same benchmark or benchmarks, paired by image.

    Writes `comparison.json`, {"benchmarks": [...], "differences": [{"benchmark", "metric", "arm",
    "baseline", "value", "low", "high", "p", ...}], "tax": [...], "settings": {...}}, the tables
    `differences` and `tax` as .md, .csv and .tex, and `run.json`. A difference is candidate minus
    baseline, paired by image. Its 95 % interval and the two-sided p come from one test, so that the
    interval leaves 0 out exactly where p is below 0.05. With several candidates, `p_holm` is
    corrected for their number. `tax` has each benchmark's headline metric: a win, a loss or noise.

    Args:
        baseline: the folder of a `veridical eval` command to compare with.
        candidate: the folder of the same command for the other model.
        out: the folder to write.
        also: more such folders.
        seeds: the candidates are one arm, trained with as many seeds: their mean is compared, and
            the interval says what another seed and other images would change.

    Raises:
        UserError: the folders are not of the same benchmarks, or do not judge the same images by
            the same facts.
    """
    options = {"baseline": baseline, "candidate": candidate, "out": out, "also": also,
               "seeds": seeds}  # fmt: skip
    candidates = [candidate, *(also or [])]
    _refuse_repeated([baseline, *candidates])
    if seeds and len(candidates) < 2:
        raise UserError("--seeds needs more folders of the same arm: name them with --also.")
    arms = [find_pairs(baseline, folder) for folder in candidates]
    pairs = [pair for own in arms for pair in own]
    benchmarks = [pair.benchmark for pair in arms[0]]
    inputs = _inputs(arms)
    with start_run(out, "eval compare", options, inputs) as run:
        rows = _over_seeds(arms) if seeds else with_holm(_all_differences(arms))
        tax = alignment_tax(rows, benchmarks)
        differing = {
            name: sides
            for pair in pairs
            for name, sides in settings_that_differ(pair.baseline, pair.candidate).items()
        }
        described_ = [described(benchmark) for benchmark in benchmarks]
        content = {
            "benchmarks": described_, "differences": rows, "tax": tax, "settings": differing,
        }  # fmt: skip
        write_json(out / "comparison.json", content)
        titles = {benchmark.name: benchmark.description.title for benchmark in benchmarks}
        difference_table(rows, titles).write(out, "differences")
        tax_table(tax, titles).write(out, "tax")
        run.finish(metrics=len(rows), settings_that_differ=sorted(differing))
    for name, (ours, theirs) in differing.items():
        print(f"Note: {name} differs, {theirs!r} for the baseline and {ours!r} for the candidate.")
    _print_by_benchmark(rows, benchmarks)
    if len(benchmarks) > 1:
        for line in describe_tax(tax, titles):
            print(line)
    return rows


def _print_by_benchmark(rows: Sequence[DifferenceRow], benchmarks: Sequence[Benchmark]) -> None:
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    for benchmark, arm in product(benchmarks, arms):
        own = [row for row in rows if (row["benchmark"], row["arm"]) == (benchmark.name, arm)]
        title = [benchmark.description.title] if len(benchmarks) > 1 else []
        if heading := [*title, *([arm] if len(arms) > 1 else [])]:
            print(f"{', '.join(heading)}:")
        if own:
            print_differences(own)
            print_cautions(benchmark, own)


def _refuse_repeated(folders: Sequence[Path]) -> None:
    counts = Counter(path.resolve() for path in folders[1:])
    twice = [folder for folder, n in counts.items() if n > 1]
    if twice:
        raise UserError(f"{twice[0]} is given twice. Name each evaluation once.")


def _inputs(arms: Sequence[Sequence[ComparedRuns]]) -> dict[str, Path]:
    """The files that are compared, by role."""
    found: dict[str, Path] = {}
    for n, pairs in enumerate(arms):
        for pair in pairs:
            for role, path in pair.inputs.items():
                own = role if role == "baseline" or not n else f"{role}/{n + 1}"
                found[own if len(pairs) == 1 else f"{own}/{pair.benchmark.name}"] = path
    return found


def _all_differences(arms: Sequence[Sequence[ComparedRuns]]) -> list[DifferenceRow]:
    """The differences of every arm, with names that tell the arms apart."""
    named = [(pairs, *_names(folder_of(pairs), baseline_of(pairs))) for pairs in arms]
    if len({arm for _, arm, _ in named}) < len(named):
        named = [(pairs, str(folder_of(pairs)), base) for pairs, _, base in named]
    rows = [
        row for pairs, arm, base in named for pair in pairs for row in _differences(pair, arm, base)
    ]
    places = {row["benchmark"]: place for place, row in reversed(list(enumerate(rows)))}
    return sorted(rows, key=lambda row: places[row["benchmark"]])


def _over_seeds(arms: Sequence[Sequence[ComparedRuns]]) -> list[DifferenceRow]:
    """The mean over seeds against the baseline, benchmark by benchmark."""
    arm, base = _names(folder_of(arms[0]), baseline_of(arms[0]))
    rows: list[DifferenceRow] = []
    name = f"{arm} and {counted(len(arms) - 1, 'more seeds')}"
    for pairs in zip(*arms, strict=True):
        benchmark = pairs[0].benchmark
        theirs = _judged_rows(pairs[0], "baseline")
        ours = [_judged_rows(pair, "candidate") for pair in pairs]
        for one in ours:
            _refuse_difference(one, theirs, benchmark.same, benchmark.facts)
        rows += [
            _row(benchmark, metric, name, base, difference, seeds=len(arms))
            for metric, difference in seed_differences(benchmark, ours, theirs).items()
        ]
    return rows


def folder_of(pairs: Sequence[ComparedRuns]) -> Path:
    """The candidate's folder: of one benchmark its own, of several the one around them."""
    own = pairs[0].candidate
    return own if len(pairs) == 1 else own.parent


def baseline_of(pairs: Sequence[ComparedRuns]) -> Path:
    """The baseline's folder, likewise."""
    own = pairs[0].baseline
    return own if len(pairs) == 1 else own.parent


def print_cautions(benchmark: Benchmark, rows: Sequence[DifferenceRow]) -> None:
    """Say what a metric's description has to say where either side is above 0."""
    for row in rows:
        metric = benchmark.description.metric(row["metric"])
        if metric.caution and (row["arm_value"] or row["baseline_value"]):
            print(
                f"Warning: {metric.label.lower()}: {row['baseline_value']:.1%} for the baseline, "
                f"{row['arm_value']:.1%} for the candidate. {metric.caution}"
            )


def compare_runs(
    baseline: Path,
    candidate: Path,
    baseline_name: str | None = None,
    arm_name: str | None = None,
) -> list[DifferenceRow]:
    """Rows {"benchmark", "metric", "arm", "baseline", "value", "low", "high", "p", ...}.

    Args:
        baseline: an evaluation's folder.
        candidate: the other's.
        baseline_name: what to call it; by default the first part, from the end, in which the two
            paths differ.
        arm_name: what to call the candidate, likewise.

    Raises:
        UserError: as for `eval_compare`.
    """
    names = _names(candidate, baseline)
    names = arm_name or names[0], baseline_name or names[1]
    pairs = find_pairs(baseline, candidate)
    return [row for pair in pairs for row in _differences(pair, *names)]


def find_pairs(baseline: Path, candidate: Path) -> list[ComparedRuns]:
    """The evaluations in two folders, or in the folders in them, benchmark by benchmark.

    Raises:
        UserError: there is none, one is not finished, or they are by different benchmarks.
    """
    ours, theirs = evaluations_in(candidate), evaluations_in(baseline)
    if ours.keys() != theirs.keys():
        raise UserError(
            f"{candidate} and {baseline} are evaluations by different benchmarks: "
            f"{', '.join(ours)}, and {', '.join(theirs)}. Name two folders of the same ones."
        )
    return [ComparedRuns(find_benchmark(name), theirs[name], ours[name]) for name in ours]


def settings_that_differ(baseline: Path, candidate: Path) -> dict[str, tuple[object, object]]:
    """Options of the two runs, besides the model, that are not the same: (candidate, baseline)."""
    ours, theirs = (_configuration(folder) for folder in (candidate, baseline))
    return {
        name: (ours.get(name), theirs.get(name))
        for name in sorted((ours.keys() | theirs.keys()) - _OWN)
        if ours.get(name) != theirs.get(name)
    }


def print_differences(rows: Sequence[DifferenceRow]) -> None:
    """A line for each metric: both values, the difference with its interval, p, and a note."""
    width = max(len(row["metric"]) for row in rows)
    several = any(HOLM in row for row in rows)
    print(
        f"{'metric':<{width}}  baseline  candidate  difference  95 % interval          p"
        f"{'       p (Holm)' if several else ''}"
    )
    for row in rows:
        interval = f"[{fixed_width(row['low'], sign=True)}, {fixed_width(row['high'], sign=True)}]"
        p = f"{shown_p(row['p']):<6}"
        p += f"  {shown_p(row.get(HOLM)):<8}" if several else ""
        difference = fixed_width(row["value"], sign=True)
        print(
            f"{row['metric']:<{width}}    {fixed_width(row['baseline_value'])}     "
            f"{fixed_width(row['arm_value'])}      {difference}  {interval}  "
            f"{p}  {_ranks(row)}{row.get('note', '')}".rstrip()
        )


def _ranks(row: DifferenceRow) -> str:
    """Wilcoxon's p, of ratings."""
    found = row.get("wilcoxon_p")
    return "" if found is None else f"Wilcoxon {shown_p(found)}  "


def _differences(pair: ComparedRuns, arm: str, baseline: str) -> list[DifferenceRow]:
    ours, theirs = read_sides(pair)
    return [
        _row(pair.benchmark, metric, arm, baseline, difference)
        for metric, difference in differences(pair.benchmark, ours, theirs).items()
    ]


def _row(
    benchmark: Benchmark,
    metric: str,
    arm: str,
    baseline: str,
    difference: Difference,
    **more: int,
) -> DifferenceRow:
    about = {"benchmark": benchmark.name, "metric": metric, "arm": arm, "baseline": baseline}
    return cast(DifferenceRow, {**about, **more, **difference.as_json()})


def read_sides(pair: ComparedRuns) -> tuple[Sequence[Row], Sequence[Row]]:
    """The judged rows of candidate and baseline.

    Raises:
        UserError: they do not judge the same images by the same facts, or a row lacks a field.
    """
    ours, theirs = (_judged_rows(pair, role) for role in ("candidate", "baseline"))
    _refuse_difference(ours, theirs, pair.benchmark.same, pair.benchmark.facts)
    return ours, theirs


def _judged_rows(pair: ComparedRuns, role: str) -> Sequence[Mapping[str, object]]:
    path, benchmark = pair.inputs[role], pair.benchmark
    rows = read_judged(path)
    for number_, row in enumerate(rows, start=1):
        for field in ("image_id", *benchmark.same, *benchmark.needs):
            if field not in row:
                raise UserError(
                    f"{path}: row {number_} has no {field}, which {benchmark.name} is scored by. "
                    "The file was changed since the run wrote it; restore it."
                )
    return rows


def _refuse_difference(
    ours: Sequence[Row],
    theirs: Sequence[Row],
    fields: Sequence[str],
    what: str,
) -> None:
    """Both sides must judge the same images, by the same facts."""
    alone = {row["image_id"] for row in ours} ^ {row["image_id"] for row in theirs}
    if alone:
        raise UserError(
            f"In one of the two evaluations only: {counted(len(alone), 'images')} "
            f"({', '.join(sorted(alone)[:5])}). Evaluate both models on the same images."
        )
    facts = [
        sorted(str([row.get(field) for field in fields]) for row in rows) for rows in (ours, theirs)
    ]
    if facts[0] != facts[1]:
        raise UserError(
            f"The two evaluations use different {what} for the same images. Evaluate both models "
            "with the same files and options."
        )


def evaluations_in(folder: Path) -> dict[str, Path]:
    """Folders of evaluations by their benchmarks' names: this one, or those in it."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found: dict[str, Path] = {}
    for place in [folder] if (folder / SCORES).is_file() else inside:
        if not (place / SCORES).is_file():
            continue
        name = run_files.SCORES.read(place)["benchmark"]["name"]
        if name in found:
            raise UserError(f"{place} and {found[name]} are both evaluations by {name}. Name one.")
        _require_finished(place)
        found[name] = place
    if not found:
        raise UserError(
            f"{folder} is not an evaluation: neither it nor a folder in it has {SCORES}."
        )
    return dict(sorted(found.items(), key=lambda item: place_of(item[0])))


def _require_finished(folder: Path) -> None:
    fields = read_fields(folder) if (folder / RECORD).is_file() else {}
    if trouble := unfinished(fields):
        raise UserError(
            f"{folder} can't be compared: {trouble}, so the rows may be of another model or other "
            "settings than its run.json says. Evaluate again, to the end."
        )


def _configuration(folder: Path) -> Mapping[str, object]:
    return read_fields(folder).get("configuration", {}) if (folder / RECORD).is_file() else {}


def _names(candidate: Path, baseline: Path) -> tuple[str, str]:
    ours, theirs = candidate.resolve().parts[::-1], baseline.resolve().parts[::-1]
    different = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
    return different[0] if different else (candidate.name, baseline.name)
