"""Score a reward model on pairs that it was not trained on: accuracy, calibration, length bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from veridical.checks.prefix_sharing import Sharing, sharing
from veridical.data.origins import unread_rows, with_origins
from veridical.data.records import read_records
from veridical.eval._reward_pairs import (
    RenderedPairs,
    Seen,
    Told,
    about_pairs,
    facts_to_tell,
    render_pairs,
)
from veridical.eval._reward_scores import REWARD, by_group, reward_metrics, reward_sums
from veridical.eval.asks import Asks, GivenAnswers, Row
from veridical.eval.benchmark import Benchmark
from veridical.eval.evaluation import USUAL, Evaluation, Subject
from veridical.eval.judged_pairs import no_questions
from veridical.eval.run import run_benchmark
from veridical.models.refused_rows import leave_out_refused
from veridical.models.rendering import Group
from veridical.models.reward_model import RewardModel, load_reward_model
from veridical.models.reward_scores import ReadGroup, read_groups
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.options import Placement, Reading
from veridical.runtime.path_names import path_names
from veridical.runtime.progress import part_of, track
from veridical.runtime.run_files import SkippedRow
from veridical.scoring.statistics import Estimate

CHUNK = 64
BY = "builder"
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """Which reward model is scored, on which pairs.

    Attributes:
        model: the folder `model` or `adapter` of a run of `train reward`.
        data: preference pairs, one or more files; each is a source of its own.
        by: keys of the records' `source` that sources are told apart by as well, such as
            `builder` (the default) or `kind`.
        cluster: the key of the records' `source` that tells images apart, such as `image_id`; if
            not set, the pictures do, or the prompts where there are none.
        facts: which facts a model that reads them is told: the record's `own`, `none`, or those
            of some `other` record with other images, drawn by seed.
        images: `own`, or plain `gray` ones in their place; what accuracy remains comes from the
            words alone.
        batch_size: pairs at once.
        share_prefix: encode image and prompt once per pair, where the model allows it.
        reading: how DATA is read.
        placement: number format and device of MODEL.
        seed: draws the facts of `facts other`.
    """

    model: Path
    data: list[Path]
    by: list[str] | None = None
    cluster: str | None = None
    facts: Told = "own"
    images: Seen = "own"
    batch_size: int = 8
    share_prefix: bool = True
    reading: Reading = Reading()
    placement: Placement = Placement()
    seed: int = 0


def check_options(options: RewardOptions, evaluation: Evaluation) -> None:
    """Refuse files that are not there or named twice, before the model is loaded.

    Raises:
        UserError: names it.
    """
    for path in options.data:
        require_file(path, "--data")
    if len({path.resolve() for path in options.data}) < len(options.data):
        raise UserError("--data names a file twice.")


def score_pairs(options: RewardOptions, evaluation: Evaluation) -> GivenAnswers:
    """The rewards of every pair, as rows of `rewards.jsonl`.

    Raises:
        UserError: a file can't be read, or too many of its pairs can't be scored.
    """
    placement, reading = options.placement, options.reading
    reward_model = load_reward_model(
        options.model, placement.dtype, placement.device, placement.attention
    )
    rows: list[Row] = []
    tokens = 0
    skipped: list[SkippedRow] = []
    for name, path in _names(options.data).items():
        records = read_records(path, "preference", reading.images_root, reading.max_bad_fraction)
        # Facts of others are drawn from the whole file, whatever part of it is scored.
        told = facts_to_tell(records, options.facts, options.seed)
        found = render_pairs(reward_model, records, told, options.images, reading.limit)
        rewards, left_out = _rewards(reward_model, found, options.batch_size, options.share_prefix)
        _refuse_many(path, left_out, len(rewards), reading.max_bad_fraction)
        skipped += [*unread_rows(records), *with_origins(records, left_out)]
        scored = {place: found.kept[place] for place in rewards}
        about = about_pairs(records, scored, name, options.by or [BY], options.cluster)
        rows += [
            {**row, **_judged(*read.rewards)}
            for row, read in zip(about, rewards.values(), strict=True)
        ]
        tokens += sum(read.tokens for read in rewards.values())
    merges = {"model": reward_model.policy.merges}
    counts = {"pairs": len(rows), "judge_input_tokens": tokens, "judge_replies": len(rows)}
    return GivenAnswers(rows, skipped, counts, merges)


def as_scored(options: RewardOptions, evaluation: Evaluation, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows as they are: the rewards are the judgment."""
    return rows


def main_or_accuracy(name: str) -> bool:
    """All scores of all pairs; of each group the accuracy."""
    return "/" not in name or name.endswith("/accuracy")


BENCHMARK = Benchmark(
    description=REWARD,
    judged="rewards.jsonl",
    sums=reward_sums,
    formulas=reward_metrics(),
    groups=by_group,
    same=("data", "id", "words"),
    facts="pairs",
    needs=("margin",),
    asks=Asks(
        options=RewardOptions,
        max_new_tokens=0,
        label="rewards",
        check=check_options,
        read=no_questions,
        match=score_pairs,
        judge=as_scored,
        sees_images=False,
        speaks=False,
        answers_in_files=lambda options: True,
        models=lambda options: {"model": options.model},
        asks_models=False,
        prints=main_or_accuracy,
    ),
)


def eval_reward(reward: RewardOptions, out: Path) -> dict[str, Estimate]:
    """Score the pairs in DATA by the reward model MODEL, and say how often it is right.

    Writes `rewards.jsonl` (a row a pair), `scores.json` (over all pairs, and of each source;
    95 % intervals clustered by image), `skipped.jsonl` and `run.json`. Scores: accuracy (a tie is
    half right), margin (mean difference of the rewards), log_loss, calibration_error (how far
    confidence is from accuracy, in ten bins), length_correlation (of margin and difference in
    words), longer_preferred, and what guessing the longer answer would give: longer_chosen.

    Args:
        reward: which model is scored, on which pairs.
        out: the folder to write.

    Raises:
        UserError: a file can't be read, or too many of its pairs can't be scored.
    """
    return run_benchmark(BENCHMARK, reward, out, Subject(), USUAL)


def _judged(chosen: float, rejected: float) -> dict[str, float]:
    return {"chosen": chosen, "rejected": rejected, "margin": chosen - rejected}


def _names(data: Sequence[Path]) -> dict[str, Path]:
    """A name for each file: its own, with its folders' where that is the same for several."""
    stems = [path.with_suffix("") for path in data]
    alike = len({stem.absolute() for stem in stems}) < len(stems)
    return dict(zip(path_names(data if alike else stems), data, strict=True))


def _rewards(
    reward_model: RewardModel, found: RenderedPairs, batch_size: int, share_prefix: bool
) -> tuple[dict[int, ReadGroup], list[SkippedRow]]:
    """Rewards of the pairs that the processor takes, by place; and all pairs without any."""
    shares = Sharing(False, "--share-prefix false")

    def decide(chosen: Sequence[Group]) -> Sharing:
        return sharing(reward_model.policy, chosen) if chosen and share_prefix else shares

    def score(chosen: Sequence[Group]) -> list[ReadGroup]:
        return read_groups(reward_model, chosen, batch_size, shares.allowed)

    shares, refused = _without_refused(found.kept, decide)
    rewards: dict[int, ReadGroup] = {}
    places = [n for n in found.kept if n not in refused]
    for start in track(range(0, len(places), CHUNK), f"rewards, {CHUNK} pairs a step"):
        chunk = {n: found.kept[n] for n in places[start : start + CHUNK]}
        values, late = _without_refused(chunk, score)
        rewards |= dict(zip([n for n in chunk if n not in late], values, strict=True))
        refused |= late
    late_rows: list[SkippedRow] = [
        {"id": found.kept[n].id, "field": "images", "reason": reason}
        for n, reason in refused.items()
    ]
    return rewards, [*found.refused, *late_rows]


def _without_refused(
    pairs: Mapping[int, Group], work: Callable[[Sequence[Group]], Result]
) -> tuple[Result, dict[int, str]]:
    """`leave_out_refused` by the pairs' own places."""
    places, groups = list(pairs), list(pairs.values())
    result, refused = leave_out_refused(
        [group.id for group in groups], lambda left: work([groups[n] for n in left])
    )
    return result, {places[n]: reason for n, reason in refused.items()}


def _refuse_many(
    path: Path, refused: Sequence[SkippedRow], left: int, max_bad_fraction: float
) -> None:
    total = len(refused) + left
    if not left:
        first = f": {refused[0]['reason']}" if refused else ""
        raise UserError(f"Not one pair of {path} can be scored{first}.")
    if len(refused) > max_bad_fraction * total:
        first = "; ".join(f"{row['id']}: {row['reason']}" for row in refused[:3])
        raise UserError(
            f"{path}: {part_of(len(refused), total, 'pairs')} can't be scored; more than "
            f"--max-bad-fraction {max_bad_fraction:g} allows. {first}"
        )
