"""How often a reward model is right on pairs that it was not trained on, and what it goes by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from veridical.errors import UserError
from veridical.eval._reward_pairs import Seen, Told, about_pairs, facts_to_tell, render_pairs
from veridical.eval.scores import print_scores, write_scores
from veridical.files import require_file, write_jsonl
from veridical.logprobs import Sharing, sharing
from veridical.models import DtypeName
from veridical.progress import track
from veridical.records import read_records
from veridical.rendering import Group
from veridical.rewards import RewardModel, load_reward_model, score_groups
from veridical.runs import start_run
from veridical.statistics import (
    ClusterSums,
    Estimate,
    FloatArray,
    Metric,
    Sums,
    estimate,
    ratio,
    sum_by_cluster,
)

BINS = 10
CHUNK = 64
BY = "builder"


def eval_reward(
    model: Path,
    data: list[Path],
    out: Path,
    by: list[str] | None = None,
    facts: Told = "own",
    images: Seen = "own",
    limit: int | None = None,
    batch_size: int = 8,
    share_prefix: bool = True,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
    dtype: DtypeName = "auto",
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Estimate]:
    """Score the pairs in DATA by the reward model MODEL, and say how often it is right.

    Writes `details.jsonl` (a row a pair), `scores.json` (over all pairs, and of each source;
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
        facts: which facts a model that reads them is told: the record's `own`, `none`, or those
            of some `other` record with other images, drawn by seed.
        images: `own`, or plain `grey` ones: what is right then, the words alone have told.
        limit: only the first so many pairs of each file.
        batch_size: pairs at once.
        share_prefix: encode image and prompt once per pair, where the model allows it.
        images_root: what image paths are relative to; each data file's folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is scored.
        dtype: of the weights.
        device: `auto`, `cpu`, `cuda`, ...
        seed: of `facts other`, and of the intervals.
    """
    configuration = dict(locals())
    for path in data:
        require_file(path, "--data")
    if len({path.resolve() for path in data}) < len(data):
        raise UserError("--data names a file twice.")
    inputs = {"model": model} | {f"data/{name}": path for name, path in _names(data).items()}
    with start_run(out, "eval reward", configuration, inputs) as run:
        reward_model = load_reward_model(model, dtype, device)
        rows: list[dict[str, Any]] = []
        skipped: list[dict[str, str]] = []
        for name, path in _names(data).items():
            records = read_records(path, "preference", images_root, max_bad_fraction)
            told = facts_to_tell(records, facts, seed)
            pairs, refused = render_pairs(reward_model, records, told, images, limit)
            skipped += [
                {"id": p.id, "field": p.field, "reason": p.reason} for p in records.problems
            ]
            skipped += refused
            if not pairs:
                raise UserError(f"Not one pair of {path} can be scored: {refused[0]['reason']}.")
            about = about_pairs(records, pairs, name, by or [BY])
            rewards = _rewards(reward_model, pairs, batch_size, share_prefix)
            rows += [row | _judged(*both) for row, both in zip(about, rewards, strict=True)]
        scores = score_rewards(rows, seed)
        write_jsonl(out / "details.jsonl", rows)
        write_jsonl(out / "skipped.jsonl", skipped)
        write_scores(out, scores)
        run.finish(pairs=len(rows), skipped=len(skipped))
    print_scores({name: score for name, score in scores.items() if _is_shown(name)})
    return scores


def score_rewards(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Estimate]:
    """Every metric over all pairs, and of each group as "kind=colour/accuracy" and so on.

    Args:
        rows: as in `details.jsonl`.
        seed: of the intervals' resamples.
    """
    scores = estimate(reward_sums(rows), reward_metrics(), seed)
    groups = sorted({group for row in rows for group in row["groups"]})
    for group in groups:
        own = [row for row in rows if group in row["groups"]]
        if len(own) < len(rows):
            found = estimate(reward_sums(own), reward_metrics(), seed)
            scores |= {f"{group}/{name}": score for name, score in found.items()}
    return scores


def reward_metrics() -> tuple[Metric, ...]:
    """The metrics as formulas on the columns of `reward_sums`."""

    def calibration(sums: Sums) -> FloatArray:
        gaps = [np.abs(sums[f"right_{i}"] - sums[f"confidence_{i}"]) for i in range(BINS)]
        return ratio(np.sum(gaps, axis=0), sums["pairs"])

    def correlation(sums: Sums) -> FloatArray:
        """Pearson's, from sums."""
        n = sums["pairs"]
        shared = n * sums["margin_words"] - sums["margin"] * sums["words"]
        spread = (n * sums["margin_squared"] - sums["margin"] ** 2) * (
            n * sums["words_squared"] - sums["words"] ** 2
        )
        # Rounding leaves a spread of nothing a little off zero.
        scale = n**2 * sums["margin_squared"] * sums["words_squared"]
        return ratio(shared, np.sqrt(np.where(spread > 1e-12 * scale, spread, 0.0)))

    def share(column: str, of: str = "pairs") -> Callable[[Sums], FloatArray]:
        return lambda sums: ratio(sums[column], sums[of])

    return (
        Metric("accuracy", share("right"), "pairs"),
        Metric("margin", share("margin"), "pairs", fraction=False),
        Metric("log_loss", share("log_loss"), "pairs", fraction=False),
        Metric("calibration_error", calibration, "pairs"),
        Metric("length_correlation", correlation, "pairs", fraction=False),
        Metric("longer_preferred", share("longer_preferred", "unequal"), "unequal"),
        Metric("longer_chosen", share("longer_chosen", "unequal"), "unequal"),
    )


def reward_sums(rows: Sequence[Mapping[str, Any]]) -> ClusterSums:
    """What the metrics are made of, added up by image."""
    return sum_by_cluster((row["cluster"], _counts(row["margin"], row["words"])) for row in rows)


def _counts(margin: float, words: int) -> dict[str, float]:
    """Of one pair; `words` is how many more the chosen answer has."""
    right = 0.5 if margin == 0 else float(margin > 0)
    confidence = 1 / (1 + math.exp(-abs(margin))) if abs(margin) < 700 else 1.0
    place = min(int((confidence - 0.5) * 2 * BINS), BINS - 1)
    longer = 0.5 if margin == 0 else float((margin > 0) == (words > 0))
    return {
        "pairs": 1.0,
        "right": right,
        "margin": margin,
        "log_loss": float(np.logaddexp(0.0, -margin)),
        "words": float(words),
        "margin_squared": margin**2,
        "words_squared": float(words**2),
        "margin_words": margin * words,
        "unequal": float(words != 0),
        "longer_preferred": longer if words else 0.0,
        "longer_chosen": float(words > 0),
        **{f"right_{i}": right if i == place else 0.0 for i in range(BINS)},
        **{f"confidence_{i}": confidence if i == place else 0.0 for i in range(BINS)},
    }


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
    reward_model: RewardModel, pairs: Mapping[int, Group], batch_size: int, share_prefix: bool
) -> list[list[float]]:
    groups = list(pairs.values())
    shares = Sharing(False, "--share-prefix false")
    if share_prefix:
        shares = sharing(reward_model.policy, groups)
    rewards: list[list[float]] = []
    for start in track(range(0, len(groups), CHUNK), f"rewards, {CHUNK} pairs a step"):
        chunk = groups[start : start + CHUNK]
        rewards += score_groups(reward_model, chunk, batch_size, shares.allowed)
    return rewards


def _is_shown(name: str) -> bool:
    """All scores of all pairs; of each group the accuracy."""
    return "/" not in name or name.endswith("/accuracy")
