"""How often a reward model is right on pairs that it was not trained on, and what it goes by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from veridical.eval._reward_scores import BENCHMARK
from veridical.eval.benchmark import score_rows
from veridical.eval.scores import print_scores, write_scores
from veridical.models.refused_rows import leave_out_refused
from veridical.models.rendering import Group
from veridical.models.reward_model import RewardModel, load_reward_model, score_groups
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_jsonl
from veridical.runtime.fingerprint import fingerprint
from veridical.runtime.json_types import JsonObject
from veridical.runtime.options import Placement, Reading
from veridical.runtime.progress import part_of, track
from veridical.runtime.run_files import SkippedRow
from veridical.runtime.runs import start_run
from veridical.scoring.statistics import Estimate

CHUNK = 64
BY = "builder"
Result = TypeVar("Result")


def eval_reward(
    model: Path,
    data: list[Path],
    out: Path,
    by: list[str] | None = None,
    cluster: str | None = None,
    facts: Told = "own",
    images: Seen = "own",
    batch_size: int = 8,
    share_prefix: bool = True,
    reading: Reading = Reading(),
    placement: Placement = Placement(),
    seed: int = 0,
) -> dict[str, Estimate]:
    """Score the pairs in DATA by the reward model MODEL, and say how often it is right.

    Writes `rewards.jsonl` (a row a pair), `scores.json` (over all pairs, and of each source;
    95 % intervals clustered by image), `skipped.jsonl` and `run.json`. Scores: accuracy (a tie is
    half right), margin (mean difference of the rewards), log_loss, calibration_error (how far
    confidence is from accuracy, in ten bins), length_correlation (of margin and difference in
    words), longer_preferred, and what guessing the longer answer would give: longer_chosen.

    Args:
        model: the folder `model` or `adapter` of a run of `train reward`.
        data: preference pairs, one or more files; each is a source of its own.
        out: the folder to write.
        by: keys of the records' `source` that sources are told apart by as well, such as
            `builder` (the default) or `kind`.
        cluster: the key of the records' `source` that tells images apart, such as `image_id`; if
            not set, the pictures do, or the prompts where there are none.
        facts: which facts a model that reads them is told: the record's `own`, `none`, or those
            of some `other` record with other images, drawn by seed.
        images: `own`, or plain `gray` ones: what is right then, the words alone have told.
        batch_size: pairs at once.
        share_prefix: encode image and prompt once per pair, where the model allows it.
        reading: how DATA is read.
        placement: number format and device of MODEL.
        seed: of `facts other`.
    """
    for path in data:
        require_file(path, "--data")
    if len({path.resolve() for path in data}) < len(data):
        raise UserError("--data names a file twice.")
    options = {
        "model": model, "data": data, "out": out, "by": by, "cluster": cluster, "facts": facts,
        "images": images, "batch_size": batch_size, "share_prefix": share_prefix,
        "reading": reading, "placement": placement, "seed": seed,
    }  # fmt: skip
    names = _names(data)
    inputs = {f"data/{name}": path for name, path in names.items()}
    with start_run(out, "eval reward", options, inputs, models=[model]) as run:
        reward_model = load_reward_model(model, placement.dtype, placement.device)
        merges = reward_model.policy.merges
        run.note_model("model", str(model), fingerprint(str(model)), merges)
        rows: list[JsonObject] = []
        skipped: list[SkippedRow] = []
        for name, path in names.items():
            root, most = reading.images_root, reading.max_bad_fraction
            records = read_records(path, "preference", root, most)
            # Facts of others are drawn from the whole file, whatever part of it is scored.
            told = facts_to_tell(records, facts, seed)
            found = render_pairs(reward_model, records, told, images, reading.limit)
            rewards, left_out = _rewards(reward_model, found, batch_size, share_prefix)
            _refuse_many(path, left_out, len(rewards), most)
            skipped += [*unread_rows(records), *with_origins(records, left_out)]
            scored = {place: found.kept[place] for place in rewards}
            about = about_pairs(records, scored, name, by or [BY], cluster)
            rows += [
                {**row, **_judged(*both)} for row, both in zip(about, rewards.values(), strict=True)
            ]
        scores = score_rows(BENCHMARK, rows)
        write_jsonl(out / "rewards.jsonl", rows)
        write_jsonl(out / "skipped.jsonl", skipped)
        write_scores(out, BENCHMARK, scores)
        run.finish(pairs=len(rows), skipped=len(skipped))
    print_scores({name: score for name, score in scores.items() if _is_shown(name)})
    return scores


def _judged(chosen: float, rejected: float) -> dict[str, float]:
    return {"chosen": chosen, "rejected": rejected, "margin": chosen - rejected}


def _names(data: Sequence[Path]) -> dict[str, Path]:
    """A name for each file: its own, with its folder's where that is the same for several."""
    stems = [path.stem for path in data]
    return {
        path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.stem}": path
        for path in data
    }


def _rewards(
    reward_model: RewardModel, found: RenderedPairs, batch_size: int, share_prefix: bool
) -> tuple[dict[int, list[float]], list[SkippedRow]]:
    """Rewards of the pairs that the processor takes, by place; and all pairs without any."""
    shares = Sharing(False, "--share-prefix false")

    def decide(chosen: Sequence[Group]) -> Sharing:
        return sharing(reward_model.policy, chosen) if chosen and share_prefix else shares

    def score(chosen: Sequence[Group]) -> list[list[float]]:
        return score_groups(reward_model, chosen, batch_size, shares.allowed)

    shares, refused = _without_refused(found.kept, decide)
    rewards: dict[int, list[float]] = {}
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


def _is_shown(name: str) -> bool:
    """All scores of all pairs; of each group the accuracy."""
    return "/" not in name or name.endswith("/accuracy")
