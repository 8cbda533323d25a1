"""What each section of the page shows, as plain data for the template."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset

from veridical.data.messages import text_of
from veridical.report.curves import Rows, percent
from veridical.report.doctor import Algorithm, diagnose
from veridical.report.figures import Plot, training_plots
from veridical.report.findings import Diagnosis
from veridical.report.folders import Part, pairs_fault
from veridical.report.pictures import ShownPicture, TextSegment, embed, find_image, mark_completions
from veridical.report.results import Results
from veridical.report.steps import compares_with_reference, reward_scale
from veridical.report.wording import count_of, duration, joined
from veridical.runtime.descriptions import read_description
from veridical.runtime.errors import UserError
from veridical.runtime.files import JSON_ERRORS
from veridical.runtime.json_types import JsonObject
from veridical.runtime.randomness import generator
from veridical.runtime.run_files import (
    CHECKED,
    LOG,
    PROOFS,
    SKIPPED,
    SUMMARY,
    ProofRow,
    SummaryFile,
)

PAIRS_SHOWN = 6


@dataclass(frozen=True)
class ShownTraining:
    """One training run: its curves, what they mean, and its proofs."""

    name: str
    algorithm: Algorithm
    last_step: int
    plots: list[Plot]
    findings: list[Diagnosis]
    proofs: list[ProofRow] | None


@dataclass(frozen=True)
class ShownPair:
    """A preference pair as it is shown."""

    pair_id: str
    picture: ShownPicture
    prompt: str
    chosen: str
    rejected: list[TextSegment]
    facts: list[str]


@dataclass(frozen=True)
class ShownPairs:
    """What was built, and a few pairs of it."""

    name: str
    total: int
    skipped: list[tuple[str, int]] | None
    guided: bool
    shown: list[ShownPair]
    summary: SummaryFile
    folder: Path


# --- what was done -------------------------------------------------------------------------

ALGORITHMS: dict[str, Algorithm] = {
    "train dpo": "dpo",
    "train online": "dpo",
    "train sft": "sft",
    "train steerlm": "sft",
    "train ppo": "rl",
    "train rloo": "rl",
    "train grpo": "rl",
    "train reward": "reward",
}


def story(
    parts: Sequence[Part], found: Sequence[ShownTraining], built_: Sequence[ShownPairs]
) -> str:
    """What was done, in a sentence or two; empty when nothing but a record is there."""
    phrases = []
    if built_:
        total = sum(item.total for item in built_)
        phrases.append(f"{count_of(total, 'preference pair')} built")
    ways = (
        ("dpo", "trained by DPO"),
        ("sft", "fine-tuned"),
        ("rl", "trained by reinforcement learning"),
        ("reward", "trained as a reward model"),
    )
    for algorithm, words in ways:
        runs = [item for item in found if item.algorithm == algorithm]
        if runs:
            steps = sorted({item.last_step for item in runs})
            length = joined([f"{step:,}" for step in steps])
            names = joined([item.name for item in runs])
            if len(runs) > 2:
                names = count_of(len(runs), "model")
            phrases.append(f"{names} {words} for {length} step{'' if steps == [1] else 's'}")
    evaluations = [part for part in parts if part.kind == "eval"]
    if evaluations:
        phrases.append(count_of(len(evaluations), "evaluation") + " made")
    if not phrases:
        return ""
    return f"What was done: {joined(phrases)}{_effort(parts)}."


def _effort(parts: Sequence[Part]) -> str:
    """The wall time of the outermost records, and the machine."""
    recorded = [part for part in parts if part.record]
    outermost = [
        part
        for part in recorded
        if not any(other.folder in part.folder.parents for other in recorded)
    ]
    seconds = sum(float(part.record.get("wall_time_seconds") or 0) for part in outermost)
    hardware: Mapping[str, Any] = next(
        (part.record["hardware"] for part in recorded if "hardware" in part.record), {}
    )
    machine = joined(sorted(set(hardware.get("gpus") or []))) or (
        f"{hardware['cores']} CPU cores" if hardware.get("cores") else ""
    )
    took = f", in {duration(seconds)}" if seconds else ""
    return took + (f" on {machine}" if machine else "")


# --- training ------------------------------------------------------------------------------


def trainings(parts: Sequence[Part], results: Results) -> list[ShownTraining]:
    """Every training run, the headline's arm first."""
    found = [_training(part, results) for part in parts if part.kind == "train"]
    return sorted(found, key=lambda item: not _leads(item.name, results))


def _training(part: Part, results: Results) -> ShownTraining:
    log = part.read(LOG) or []
    command = str(part.record.get("command", ""))
    algorithm = ALGORITHMS.get(command) or _algorithm_of(log)
    beta, of_means = reward_scale(part.record)
    counts = part.record.get("results") or {}
    held_out = counts.get("held_out_pairs", counts.get("held_out_rows"))
    held_out = held_out if isinstance(held_out, int) else None
    findings = diagnose(
        log,
        algorithm,
        beta,
        _answer_lengths(part, results),
        held_out,
        compares_with_reference(part.record),
        of_means,
    )
    proofs = part.read(PROOFS)
    last_step = max((int(row.get("step") or 0) for row in log), default=0)
    described = (part.read(CHECKED) or {"benchmarks": []})["benchmarks"]
    plots = training_plots(log, [read_description(entry) for entry in described], of_means)
    return ShownTraining(part.name, algorithm, last_step, plots, findings, proofs)


def _algorithm_of(log: Rows) -> Algorithm:
    """What a log of unknown origin looks like."""
    if any(row.get("reward") is not None for row in log):
        return "rl"
    pairs_seen = any(row.get("rewards_margin") is not None for row in log)
    return "dpo" if pairs_seen or not log else "sft"


def _answer_lengths(part: Part, results: Results) -> tuple[float, float] | None:
    """Mean length before and after: of this run's own arm and seed."""
    arm = part.name if part.name in results.arms else part.name.split("/")[-1]
    seed = (part.record.get("configuration") or {}).get("seed")
    metric = next((m for m in results.metrics if results.describe(m).unit == "words"), "")
    values = results.values.get((arm, metric), [])
    own = [value.value for value in values if len(values) == 1 or value.seed == seed]
    before = results.mean(results.baseline, metric)
    if arm == results.baseline or before is None or not own or own[0] is None:
        return None
    return before, own[0]


# --- pairs ---------------------------------------------------------------------------------


def pair_sets(parts: Sequence[Part], results: Results) -> list[ShownPairs]:
    """Every set of pairs, the headline arm's first."""
    found = [pairs(part) for part in parts if part.kind == "build"]
    return sorted(found, key=lambda item: not _leads(item.name, results))


def _leads(name: str, results: Results) -> bool:
    return name.split("/")[-1] == (results.headline_arm or "").split("/")[-1]


def pairs(part: Part, count: int = PAIRS_SHOWN, seed: int = 0) -> ShownPairs:
    """The pairs of a build run; those shown are drawn by seed, never picked."""
    path = part.folder / "pairs.parquet"
    if fault := pairs_fault(path):
        raise UserError(f"{fault} Build them again.")
    try:
        table = pyarrow.dataset.dataset(str(path), format="parquet")
        total = int(table.count_rows())
        order = generator(seed, "report", "pairs").permutation(total)[:count]
        rows: list[dict[str, object]] = table.take(
            sorted(int(index) for index in order)
        ).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}. Build it again.") from error
    shown = [_pair(row, part) for row in rows]
    skipped = part.read(SKIPPED)
    reasons = None if skipped is None else Counter(str(row.get("reason", "")) for row in skipped)
    guided = any(segment.kind == "completed" for pair in shown for segment in pair.rejected)
    common = None if reasons is None else reasons.most_common()
    summary: SummaryFile = part.read(SUMMARY) or {}
    return ShownPairs(part.name, total, common, guided, shown, summary, part.folder)


def _pair(row: Mapping[str, Any], part: Part) -> ShownPair:
    source = _source(row.get("source"))
    rejected = text_of(row["rejected"])
    facts = []
    if source.get("iteration") is not None:
        facts.append(f"iteration {source['iteration']}")
    if isinstance(source.get("similarity"), int | float):
        facts.append(f"similarity {source['similarity']:.2f}")
    masked = source.get("share_masked")
    if isinstance(masked, int | float):
        facts.append(f"{percent(masked)} of the image hidden")
    return ShownPair(
        str(row.get("id", "")),
        _pair_picture(row, part),
        text_of(row["prompt"]).strip(),
        text_of(row["chosen"]),
        mark_completions(rejected, _mappings(source.get("cuts"))),
        facts,
    )


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _source(text: object) -> JsonObject:
    if not isinstance(text, str) or not text:
        return {}
    try:
        value = json.loads(text)
    except JSON_ERRORS:
        return {}
    return value if isinstance(value, dict) else {}


def _pair_picture(row: Mapping[str, Any], part: Part) -> ShownPicture:
    images = row.get("images") or []
    if not images:
        return ShownPicture("", 0, 0, False, "this pair has no image")
    first = images[0]
    if isinstance(first, Mapping):
        if first.get("bytes"):
            return embed(first["bytes"])
        first = first.get("path")
    return embed(find_image(first, part), str(first))


# --- builds at a glance ----------------------------------------------------------------------


def built(item: ShownPairs) -> str:
    """One sentence on a set of pairs."""
    sentence = f"{count_of(item.total, 'pair')} built"
    if item.skipped is None:
        return f"{sentence}; no skipped.jsonl, so what was left out is not known."
    dropped = sum(number for _, number in item.skipped)
    sentence += f"; {count_of(dropped, 'row')} skipped." if dropped else "; no row was skipped."
    return sentence + _accepted(item.summary)


def _accepted(summary: Mapping[str, Any]) -> str:
    """In which iteration the pairs were accepted, and how alike their two answers are."""
    iterations = summary.get("pairs_by_iteration") or {}
    if not iterations or summary.get("mean_similarity") is None:
        return ""
    counts = [f"{number:,} in iteration {name}" for name, number in iterations.items()]
    return f" Accepted: {joined(counts)}; mean similarity {summary['mean_similarity']:.2f}."
