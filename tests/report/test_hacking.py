"""Reward against truth: told apart when they part, and not when they only shake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from veridical.report.doctor import diagnose
from veridical.report.figures import training_plots
from veridical.report.hacking import movement, standardized

STEPS = 60


def log(**slopes: float) -> list[dict[str, Any]]:
    """A run whose figures move by so much, with noise of 0.1 (length: 1)."""
    noise = np.random.default_rng(0)
    starts = {"judge_score": 1.0, "exact_score": 0.5, "response_tokens": 20.0, "entropy": 2.0}
    rows = []
    for step in range(STEPS):
        row: dict[str, Any] = {"step": step + 1, "split": "train", "loss": 0.0}
        for name, start in starts.items():
            size = 1.0 if name == "response_tokens" else 0.1
            row[name] = start + slopes.get(name, 0.0) * step / STEPS + size * noise.normal()
        row["reward"] = row["judge_score"]
        rows.append(row)
    return rows


def titles(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(finding.level, finding.title) for finding in diagnose(rows, "rl")]


@pytest.mark.parametrize(
    ("slopes", "level", "title"),
    [
        ({}, "note", "The reward did not rise"),
        ({"judge_score": 1.0, "exact_score": 1.0}, "good", "The reward rises"),
        ({"judge_score": 1.0, "exact_score": -1.0}, "warning", "The reward rises and truth falls"),
        (
            {"judge_score": 1.0, "response_tokens": 10.0},
            "warning",
            "The reward rises with the length, and truth does not",
        ),
        ({"judge_score": 1.0}, "warning", "The reward rises and truth does not follow"),
        # Longer, but truth goes up too.
        (
            {"judge_score": 1.0, "exact_score": 1.0, "response_tokens": 10.0},
            "good",
            "The reward rises",
        ),
        (
            {"judge_score": 1.0, "exact_score": 1.0, "entropy": -1.95},
            "warning",
            "The policy gives nearly the same answer to every prompt",
        ),
    ],
)
def test_the_doctor_warns_when_reward_and_truth_part(
    slopes: dict[str, float], level: str, title: str
) -> None:
    assert titles(log(**slopes))[0] == (level, title)


def test_what_was_cut_or_not_scored_is_told() -> None:
    rows = [row | {"response_cut": 0.4, "unscored": 1} for row in log(judge_score=1.0)]
    found = [title for _, title in titles(rows)]
    assert "Many responses are cut by the limit" in found
    assert "Some responses could not be scored" in found


def test_movement_is_held_against_the_noise_of_neighbors() -> None:
    rows = [{"step": i, "x": float(i % 2)} for i in range(20)]
    # Neighbors differ by 1: variance 1/2, so the error of two means of 2 is sqrt(1/2).
    start, end, distance = movement(rows, "x") or (9.0, 9.0, 9.0)
    assert (start, end, distance) == (0.5, 0.5, 0.0)
    rising = [{"step": i, "x": float(i)} for i in range(20)]
    start, end, distance = movement(rising, "x") or (9.0, 9.0, 9.0)
    assert (start, end) == (0.5, 18.5)
    assert distance == pytest.approx(18 / 0.5**0.5)
    assert movement(rising[:5], "x") is None


def test_curves_of_any_scale_fit_one_plot() -> None:
    points = [(0.0, 10.0), (1.0, 20.0), (2.0, 30.0)]
    # Deviation sqrt(200 / 3) = 8.165
    assert standardized(points) == [
        (0.0, 0.0), (1.0, pytest.approx(1.2247, abs=1e-4)), (2.0, pytest.approx(2.4495, abs=1e-4)),
    ]  # fmt: skip
    assert standardized([(0.0, 5.0), (1.0, 5.0)]) == [(0.0, 0.0), (1.0, 0.0)]
    (first, *others) = training_plots(log(judge_score=1.0, exact_score=-1.0))
    assert first.title.startswith("Reward, truth and length")
    assert "what is true from" in first.words
    assert {"Reward", "Entropy, nats a token"} <= {plot.title for plot in others}
    plain = [{name: row[name] for name in ("step", "loss", "reward")} for row in log()]
    assert not any("truth" in plot.title for plot in training_plots(plain))


@pytest.mark.parametrize(
    ("rewards", "prompts", "warned"),
    [
        ((0.0, 1.0, 0.2), 100, True),  # 0.8 below its best, where a mean of 100 is off by 0.1
        ((0.0, 1.0, 0.2), 9, False),  # and one of 9 by 0.33
        ((0.0, 0.2, 1.0), 100, False),
        ((0.0, None, -0.1), 100, False),
        ((1.0,), 100, False),
    ],
)
def test_a_held_out_reward_that_falls_is_told_from_noise(
    rewards: tuple[float | None, ...], prompts: int, warned: bool
) -> None:
    looks = [
        {"step": 20 * n, "split": "eval", "reward": value, "reward_deviation": 1.0,
         "prompts": prompts, "judge_score": 9.0, "exact_score": 9.0}
        for n, value in enumerate(rewards)
    ]  # fmt: skip
    found = titles([*log(), *looks])
    assert (("warning", "The held-out reward falls again") in found) == warned
    # What is drawn of reward, truth and length is training's alone.
    first, same = (training_plots(rows)[0].words for rows in ([*log(), *looks], log()))
    assert first == same
