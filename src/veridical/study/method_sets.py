"""What the compared methods learn from: one seed's scenes, and the sets made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from veridical.builders.best import build_best
from veridical.builders.distort import build_distort
from veridical.builders.join import build_join
from veridical.builders.options import ObjectFiles
from veridical.builders.rate import build_rate
from veridical.builders.sample import build_sample
from veridical.sampling import Decoding
from veridical.study.arms import (
    BDHS,
    NOISE,
    PLAIN,
    UNGUIDED,
    Arm,
    Budget,
    ensure_pairs,
    is_finished,
)

SAMPLES = 4
"""Responses to each prompt, as in Li et al. 2024."""

DataName = Literal[
    "bdhs", "unguided", "noise", "plain", "joined", "distorted", "rated", "best"
]  # fmt: skip


def make_samples(out: Path, model: str, seed: int, budget: Budget) -> None:
    """Samples of every prompt, rated by truth; the best of each; and distorted pictures."""
    scenes, sets = scenes_of(out, seed), out / f"seed{seed}" / "pairs"
    data = scenes / "conversations.jsonl"
    if not is_finished(sets / "samples"):
        build_sample(
            model, data=data, out=sets / "samples", k=SAMPLES,
            decoding=Decoding(80, 0.7, seed, batch_size=256),
        )  # fmt: skip
    if not is_finished(sets / "rated"):
        build_rate(
            sets / "samples" / "samples.parquet", sets / "rated", files=ObjectFiles(
                objects=scenes / "objects.json", vocabulary=scenes / "vocabulary.json"
            ),
        )  # fmt: skip
    if not is_finished(sets / "best"):
        build_best(sets / "rated" / "samples.parquet", sets / "best")
    if not is_finished(sets / "distorted"):
        build_distort(data, sets / "distorted", noise_steps=budget.noise_steps, seed=seed)


def make_bdhs_and_plain(out: Path, model: str, seed: int, budget: Budget) -> None:
    """BDHS pairs, pairs with plain samples, and both joined."""
    sets = out / f"seed{seed}" / "pairs"
    for arm in (BDHS, PLAIN):
        _make_pairs(arm, out, model, seed, budget)
    if not is_finished(sets / "joined"):
        build_join(
            sets / "bdhs" / "pairs.parquet", sets / "plain" / "pairs.parquet", sets / "joined"
        )


def make_noise(out: Path, model: str, seed: int, budget: Budget) -> None:
    """BDHS pairs with image noise in place of the mask."""
    _make_pairs(NOISE, out, model, seed, budget)


def make_unguided(out: Path, model: str, seed: int, budget: Budget) -> None:
    """BDHS pairs without guidance."""
    _make_pairs(UNGUIDED, out, model, seed, budget)


def _make_pairs(arm: Arm, out: Path, model: str, seed: int, budget: Budget) -> None:
    folder = out / f"seed{seed}" / "pairs" / arm.pairs
    ensure_pairs(arm, model, scenes_of(out, seed), folder, budget, seed)


def scenes_of(out: Path, seed: int) -> Path:
    """Where the scenes that a seed's sets are made from are."""
    return out / f"seed{seed}" / "scenes"


def data_file(out: Path, seed: int, name: DataName) -> Path:
    """Where a set that a method learns from is."""
    files = {"rated": "samples.parquet", "best": "conversations.parquet"}
    return out / f"seed{seed}" / "pairs" / name / files.get(name, "pairs.parquet")
