"""Preference pairs from rated samples (Li et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from veridical.builders._parts import finish
from veridical.builders._rated import QUALITY, RatedSample, rated_samples, require_aspects
from veridical.builders._row_parts import RowParts, build_set
from veridical.builders._rows import Pair, Skipped, require_any, sort_out, write_skipped
from veridical.data.origins import image_paths
from veridical.data.reading import read
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.options import Reading
from veridical.runtime.progress import are_in
from veridical.runtime.randomness import generator
from veridical.runtime.runs import start_run
from veridical.runtime.shards import print_result, read_shard

Rule = Literal["random", "extremes", "all"]


@dataclass(frozen=True)
class BetterAndWorse:
    """Two responses of a sample: the numbers of the better and the worse one."""

    sample: RatedSample
    better: int
    worse: int

    def difference(self, aspects: Sequence[str]) -> float:
        """How much better it is, in units of the sum."""
        sums = self.sample.qualities(aspects)
        return sums[self.better] - sums[self.worse]

    def pair(self, aspects: Sequence[str], rule: Rule) -> Pair:
        """The record of them."""
        made = {
            "builder": "pairs",
            "rule": rule,
            "aspects": list(aspects),
            "responses": [self.better, self.worse],
        }
        return self.sample.pair(self.better, self.worse, rule == "all", made)


def build_pairs(
    samples: Path,
    out: Path,
    rule: Rule = "random",
    aspects: list[str] | None = None,
    margin: float = 2.0,
    reading: Reading = Reading(),
    seed: int = 0,
    shard: str | None = None,
) -> None:
    """Make preference pairs from the rated responses in SAMPLES.

    An interrupted run continues when the command is given again. The number of shards does not
    change the result.

    Args:
        samples: rated records of kind `sample`, as `build rate` writes them.
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        rule: `random`: the best against one, drawn by seed, that is worse by margin or more;
            `extremes`: the best against the worst; `all`: every two that differ by margin.
        aspects: the aspects whose sum decides; Helpfulness, Correctness and Coherence if not set.
        margin: how much worse a rejected response is at least, in units of the sum; 0 takes any
            difference. Equal responses never become a pair.
        reading: how SAMPLES is read.
        seed: of the rule `random`.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    require_file(samples, "--samples")
    part = read_shard(shard)
    if margin < 0:
        raise UserError(f"--margin is {margin:g}; it can't be below 0.")
    options = {
        "samples": samples, "out": out, "rule": rule, "aspects": aspects, "margin": margin,
        "reading": reading, "seed": seed, "shard": shard,
    }  # fmt: skip
    wanted = list(QUALITY) if aspects is None else aspects
    with start_run(out, "build pairs", options, {"samples": samples}, any_process=True) as run:
        records = read(samples, "sample", reading)
        rows = list(rated_samples(records.rows))
        require_aspects(rows, wanted)
        outcome = sort_out(
            one for row in rows for one in chosen_or_skipped(row, wanted, rule, margin, seed)
        )
        nothing = f"No two responses differ by {margin:g} in any record. Lower --margin."
        if not outcome.kept:
            write_skipped(out, records, outcome.skipped, "pair")
        require_any(outcome, out, "pair", nothing)
        path, files = out / "pairs.parquet", image_paths(records.rows)
        identity = {"rule": rule, "aspects": wanted, "margin": margin, "seed": seed,
                    "data": run.record["inputs"]["samples"]["sha256"]}  # fmt: skip
        parts = RowParts(out / "parts", identity, "preference")
        if not build_set(
            parts, path, outcome.kept,
            lambda some: (vars(one.pair(wanted, rule)) for one in some),
            lambda one: files(one.sample.index), "pairs", part,
        ):  # fmt: skip
            return
        skipped = write_skipped(out, records, outcome.skipped, "pair")
        summary = {
            "prompts": len(rows),
            "pairs": len(outcome.kept),
            "skipped": skipped,
            "aspects": wanted,
            "mean_difference": round(fmean(one.difference(wanted) for one in outcome.kept), 4),
        }
        finish(run, summary, parts)
        print_result(are_in(len(outcome.kept), "pairs", path))


def chosen_or_skipped(
    sample: RatedSample, aspects: Sequence[str], rule: Rule, margin: float, seed: int
) -> list[BetterAndWorse | Skipped]:
    """What becomes pairs of a sample, or why nothing does."""
    pairs = choose_pairs(sample, aspects, rule, margin, seed)
    if not pairs:
        return [Skipped(sample.id, "ratings", f"no two responses differ by {margin:g}")]
    return [BetterAndWorse(sample, better, worse) for better, worse in pairs]


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
