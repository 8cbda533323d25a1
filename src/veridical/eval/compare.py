"""Two evaluations of the same images, compared image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from veridical.eval._reward_scores import reward_metrics, reward_sums
from veridical.eval.chair import chair_metrics, chair_sums
from veridical.eval.pope import by_split, pope_metrics, pope_sums
from veridical.eval.pope_auc import auc_difference
from veridical.eval.scores import number
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.progress import counted
from veridical.runtime.run_files import read_run_file
from veridical.runtime.run_record import RECORD, read_fields, unfinished
from veridical.runtime.runs import start_run
from veridical.scoring.statistics import ClusterSums, Metric, compare

Rows: TypeAlias = Sequence[Mapping[str, Any]]

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
        "data",
        "shard",
    }
)

# What each benchmark writes, with a field that tells it.
JUDGED = {"details.jsonl": "mentions", "answers.jsonl": "parsed", "rewards.jsonl": "margin"}


@dataclass(frozen=True)
class Part:
    """What is compared at once: metrics, a prefix for their names, and both sides' sums.

    `margins` are both sides' rows where each has a margin of yes over no, else None.
    """

    prefix: str
    metrics: Sequence[Metric]
    arm: ClusterSums
    baseline: ClusterSums
    margins: tuple[Rows, Rows] | None = None


def eval_compare(baseline: Path, candidate: Path, out: Path) -> list[dict[str, Any]]:
    """Compare two evaluations by the same benchmark, paired by image.

    Writes `comparison.json`, {"differences": [{"metric", "arm", "baseline", "value", "low",
    "high", "p", ...}]}, and `run.json`. A difference is candidate minus baseline, paired by image.
    Its 95 % interval and the two-sided p come from one test, so that the interval leaves 0 out
    exactly where p is below 0.05.

    Args:
        baseline: the folder of `veridical eval chair`, `eval pope` or `eval reward` to compare
            with.
        candidate: the folder of the same benchmark for the other model.
        out: the folder to write.

    Raises:
        UserError: the folders are not of one benchmark, or do not judge the same images by the
            same lists.
    """
    configuration = dict(locals())
    inputs = {"baseline": _judged_file(baseline), "candidate": _judged_file(candidate)}
    with start_run(out, "eval compare", configuration, inputs) as run:
        rows = compare_runs(baseline, candidate)
        differing = settings_that_differ(baseline, candidate)
        write_json(out / "comparison.json", {"differences": rows, "settings": differing})
        run.finish(metrics=len(rows), settings_that_differ=sorted(differing))
    for name, (ours, theirs) in differing.items():
        print(f"Note: {name} differs, {theirs!r} for the baseline and {ours!r} for the candidate.")
    print_differences(rows)
    warn_of_empty(rows)
    return rows


def warn_of_empty(rows: Sequence[Mapping[str, Any]]) -> None:
    """Say that models were compared of which one said nothing about some images."""
    for row in rows:
        if row["metric"] == "empty" and (row["arm_value"] or row["baseline_value"]):
            print(
                f"Warning: {row['baseline_value']:.1%} of the baseline's and "
                f"{row['arm_value']:.1%} of the candidate's answers are empty. An empty answer "
                "names nothing wrong, so chair_i and chair_s do not compare like with like."
            )


def compare_runs(
    baseline: Path,
    candidate: Path,
    baseline_name: str | None = None,
    arm_name: str | None = None,
) -> list[dict[str, Any]]:
    """Rows {"metric", "arm", "baseline", "value", "low", "high", "p", "clusters", ...}.

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
    arm_name, baseline_name = arm_name or names[0], baseline_name or names[1]
    rows = []
    for part in _parts(candidate, baseline):
        found = compare(part.arm, part.baseline, part.metrics)
        if part.margins:
            found["auc"] = auc_difference(*part.margins)
        for name, difference in found.items():
            about = {"metric": part.prefix + name, "arm": arm_name, "baseline": baseline_name}
            rows.append({**about, **difference.as_json()})
    return rows


def settings_that_differ(baseline: Path, candidate: Path) -> dict[str, tuple[Any, Any]]:
    """Options of the two runs, besides the model, that are not the same: (candidate, baseline)."""
    ours, theirs = (_configuration(folder) for folder in (candidate, baseline))
    return {
        name: (ours.get(name), theirs.get(name))
        for name in sorted((ours.keys() | theirs.keys()) - _OWN)
        if ours.get(name) != theirs.get(name)
    }


def print_differences(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each metric: both values, the difference with its interval, p, and a note."""
    width = max(len(row["metric"]) for row in rows)
    print(f"{'metric':<{width}}  baseline  candidate  difference  95 % interval          p")
    for row in rows:
        interval = f"[{number(row['low'], sign=True)}, {number(row['high'], sign=True)}]"
        p = "-" if row["p"] is None else f"{row['p']:.4f}"
        print(
            f"{row['metric']:<{width}}    {number(row['baseline_value'])}     "
            f"{number(row['arm_value'])}      {number(row['value'], sign=True)}  {interval}  "
            f"{p:<6}  {row.get('note', '')}".rstrip()
        )


def _parts(candidate: Path, baseline: Path) -> list[Part]:
    kinds = [_judged_file(folder).name for folder in (candidate, baseline)]
    if kinds[0] != kinds[1]:
        raise UserError(f"{candidate} and {baseline} are evaluations by different benchmarks.")
    ours, theirs = (read_run_file(_judged_file(folder)) for folder in (candidate, baseline))
    if kinds[0] == "details.jsonl":
        _refuse_difference(ours, theirs, ("image_id", "objects"), "object lists")
        return [Part("", chair_metrics(), chair_sums(ours), chair_sums(theirs))]
    if kinds[0] == "rewards.jsonl":
        _refuse_difference(ours, theirs, ("data", "id", "words"), "pairs")
        return [Part("", reward_metrics(), reward_sums(ours), reward_sums(theirs))]
    _refuse_difference(ours, theirs, ("split", "image_id", "question", "label"), "questions")
    own, other = by_split(ours), by_split(theirs)
    return [
        _pope_part("", ours, theirs),
        *(_pope_part(f"{split}/", own[split], other[split]) for split in own),
    ]


def _pope_part(prefix: str, ours: Rows, theirs: Rows) -> Part:
    known = all("margin" in row for rows in (ours, theirs) for row in rows)
    sums = pope_sums(ours), pope_sums(theirs)
    return Part(prefix, pope_metrics(), *sums, margins=(ours, theirs) if known else None)


def _refuse_difference(
    ours: Sequence[Mapping[str, Any]],
    theirs: Sequence[Mapping[str, Any]],
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


def _judged_file(folder: Path) -> Path:
    for name, field in JUDGED.items():
        if (folder / name).is_file():
            rows = read_run_file(folder / name)
            if rows and field in rows[0]:
                _require_finished(folder)
                return folder / name
    raise UserError(
        f"{folder} is no evaluation by chair, pope or reward: it has neither details.jsonl nor "
        "answers.jsonl with parsed answers nor rewards.jsonl."
    )


def _require_finished(folder: Path) -> None:
    fields = read_fields(folder) if (folder / RECORD).is_file() else {}
    if trouble := unfinished(fields):
        raise UserError(
            f"{folder} can't be compared: {trouble}, so the rows may be of another model or other "
            "settings than its run.json says. Evaluate again, to the end."
        )


def _configuration(folder: Path) -> dict[str, Any]:
    fields = read_fields(folder) if (folder / RECORD).is_file() else {}
    found: dict[str, Any] = fields.get("configuration", {})
    return found


def _names(candidate: Path, baseline: Path) -> tuple[str, str]:
    ours, theirs = candidate.resolve().parts[::-1], baseline.resolve().parts[::-1]
    different = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
    return different[0] if different else (candidate.name, baseline.name)
