"""Preference pairs from rated samples (Li et al. 2024)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from veridical.builders._parts import write_skipped
from veridical.builders._rated import QUALITY, RatedSample, rated_samples, require_aspects
from veridical.data.records import read_records, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_json
from veridical.runtime.progress import are_in
from veridical.runtime.randomness import generator
from veridical.runtime.runs import start_run

Rule = Literal["random", "extremes", "all"]


def build_pairs(
    samples: Path,
    out: Path,
    rule: Rule = "random",
    aspects: list[str] | None = None,
    margin: float = 2.0,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
    seed: int = 0,
) -> None:
    """Make preference pairs from the rated responses in SAMPLES.

    Args:
        samples: rated records of kind `sample`, as `build rate` writes them.
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        rule: `random`: the best against one, drawn by seed, that is worse by margin or more;
            `extremes`: the best against the worst; `all`: every two that differ by margin.
        aspects: the aspects whose sum decides; Helpfulness, Correctness and Coherence if not set.
        margin: how much worse a rejected response is at least, in units of the sum; 0 takes any
            difference. Equal responses never become a pair.
        images_root: what image paths are relative to; the samples' own folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is built.
        seed: of the rule `random`.
    """
    configuration = dict(locals())
    require_file(samples, "--samples")
    if margin < 0:
        raise UserError(f"--margin is {margin:g}; it can't be below 0.")
    wanted = list(QUALITY) if aspects is None else aspects
    with start_run(out, "build pairs", configuration, {"samples": samples}) as run:
        records = read_records(samples, "sample", images_root, max_bad_fraction)
        rows = list(rated_samples(records.rows))
        require_aspects(rows, wanted)
        chosen = [(row, choose_pairs(row, wanted, rule, margin, seed)) for row in rows]
        left_out = (
            {"id": row.id, "field": "ratings", "reason": f"no two responses differ by {margin:g}"}
            for row, pairs in chosen
            if not pairs
        )
        skipped = write_skipped(out, records, left_out, "pair")
        pairs = [
            _pair(row, better, worse, wanted, rule)
            for row, found in chosen
            for better, worse in found
        ]
        if not pairs:
            raise UserError(f"No two responses differ by {margin:g} in any record. Lower --margin.")
        write_records(pairs, out / "pairs.parquet", "preference")
        differences = [
            row.qualities(wanted)[better] - row.qualities(wanted)[worse]
            for row, found in chosen
            for better, worse in found
        ]
        summary = {
            "prompts": len(rows),
            "pairs": len(pairs),
            "skipped": skipped,
            "aspects": wanted,
            "mean_difference": round(fmean(differences), 4),
        }
        write_json(out / "summary.json", summary)
        run.finish(**summary)
        print(are_in(len(pairs), "pairs", out / "pairs.parquet"))


def choose_pairs(
    sample: RatedSample, aspects: Sequence[str], rule: Rule, margin: float, seed: int
) -> list[tuple[int, int]]:
    """Pairs (chosen, rejected) of response numbers.

    The rule `random` is that of Li et al.'s released notebook: the first of the best, against one
    drawn from those at least `margin` below.
    """
    sums = sample.qualities(aspects)
    pairs = [
        (better, worse)
        for better in sums
        for worse in sums
        if sums[better] > sums[worse]
        and sums[better] - sums[worse] >= margin
        and sample.texts[better] != sample.texts[worse]
    ]
    if rule == "all" or not pairs:
        return pairs
    best = max(sums, key=lambda number: sums[number])
    against = [pair for pair in pairs if pair[0] == best]
    if not against:
        return []
    if rule == "extremes":
        return [min(against, key=lambda pair: sums[pair[1]])]
    return [against[int(generator(seed, "rejected", sample.id).integers(len(against)))]]


def _pair(
    sample: RatedSample, better: int, worse: int, aspects: list[str], rule: Rule
) -> dict[str, Any]:
    ratings = [
        {"answer": answer, "aspect": aspect, "value": value}
        for answer, number in (("chosen", better), ("rejected", worse))
        for aspect, value in sample.ratings[number].items()
    ]
    source = sample.provenance() | {
        "builder": "pairs",
        "rule": rule,
        "aspects": aspects,
        "responses": [better, worse],
    }
    return {
        "id": f"{sample.id}/{better}-{worse}" if rule == "all" else sample.id,
        "images": sample.row["images"],
        "prompt": sample.row["prompt"],
        "chosen": sample.row["responses"][better],
        "rejected": sample.row["responses"][worse],
        "ratings": ratings,
        "facts": sample.row.get("facts"),
        "expected_answer": sample.row.get("expected_answer"),
        "source": json.dumps(source, ensure_ascii=False),
    }
