"""Each finding is triggered by a curve that has the trouble, and not by one that has not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from veridical.report.curves import start_and_end
from veridical.report.doctor import diagnose
from veridical.report.findings import Diagnosis
from veridical.report.steps import compares_with_reference, reward_scale

Row = dict[str, Any]
THIN = "\N{NARROW NO-BREAK SPACE}"


def row(step: int, chosen: float, rejected: float, split: str = "train", **changes: Any) -> Row:
    margin = chosen - rejected
    return {
        "step": step,
        "epoch": step / 50,
        "split": split,
        "loss": math.log1p(math.exp(-margin)),
        "rewards_chosen": chosen,
        "rewards_rejected": rejected,
        "rewards_margin": margin,
        "rewards_accuracy": 0.9,
        "logps_chosen": -20.0 + chosen,
        "logps_rejected": -25.0 + rejected,
        "chosen_tokens": 40.0,
        "rejected_tokens": 40.0,
        "learning_rate": 1e-4,
        **changes,
    }


def curve(
    chosen: Callable[[float], float], rejected: Callable[[float], float], **changes: Any
) -> list[Row]:
    """Fifty training rows and five held-out ones; arguments are functions of progress in [0, 1]."""
    rows = [row(step, chosen(step / 50), rejected(step / 50), **changes) for step in range(1, 51)]
    held_out = [row(s, chosen(s / 50), rejected(s / 50), "eval") for s in range(10, 51, 10)]
    return rows + held_out


def healthy() -> list[Row]:
    return curve(lambda t: 0.5 * t, lambda t: -1.5 * t)


def titles(findings: list[Diagnosis]) -> str:
    return " | ".join(finding.title for finding in findings)


def find(findings: list[Diagnosis], part: str) -> Diagnosis:
    [finding] = [finding for finding in findings if part in finding.title]
    return finding


def test_a_healthy_run_gets_no_warning() -> None:
    findings = diagnose(healthy(), beta=0.1, answer_lengths=(40.0, 40.5))
    assert {finding.level for finding in findings} == {"good"}
    assert find(findings, "answers separate").evidence.endswith("margin 1.92")


def test_a_start_and_an_end_are_means_over_a_tenth() -> None:
    rows: list[Row] = [{"step": step, "loss": float(step)} for step in range(20)]
    assert start_and_end(rows, "loss") == (0.5, 18.5)
    assert start_and_end(rows, "rewards_margin") is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, "nan"])
def test_a_figure_that_is_no_number_silences_the_rest(bad: float | str) -> None:
    rows = [*healthy(), row(51, 0.1, 0.0, logps_chosen=bad)]
    [finding] = diagnose(rows)
    assert finding.level == "warning"
    assert "logps_chosen" in finding.evidence
    assert "step 51" in finding.evidence


def test_both_rewards_falling_is_a_note_while_the_margin_gains_more() -> None:
    findings = diagnose(curve(lambda t: -0.5 * t, lambda t: -2.0 * t))
    assert find(findings, "Both rewards fall").level == "note"
    assert "Both rewards" not in titles(diagnose(healthy()))


def test_both_rewards_falling_is_a_warning_when_the_chosen_loses_more_than_the_margin() -> None:
    findings = diagnose(curve(lambda t: -3.0 * t, lambda t: -4.0 * t))
    assert find(findings, "chosen one too far").level == "warning"


def test_loss_stuck_names_a_frozen_policy() -> None:
    finding = find(diagnose(curve(lambda t: 0.0, lambda t: 0.0)), "stays at its first value")
    assert finding.level == "warning"
    assert "all rewards are zero" in finding.evidence


def test_loss_stuck_names_identical_pairs() -> None:
    rows = curve(lambda t: 0.3 * t, lambda t: 0.3 * t, logps_chosen=-20.0, logps_rejected=-20.0)
    assert "equal at every step" in find(diagnose(rows), "stays at its first value").evidence


def test_loss_stuck_names_a_small_learning_rate() -> None:
    findings = diagnose(curve(lambda t: 0.01 * t, lambda t: -0.01 * t))
    assert "learning rate is too small" in find(findings, "stays at its first value").explanation
    assert "stays at its first value" not in titles(diagnose(healthy()))


def test_swapped_branches_are_a_warning() -> None:
    findings = diagnose(curve(lambda t: -1.0 * t, lambda t: 1.0 * t))
    assert find(findings, "wrong direction").level == "warning"


def test_the_chosen_falling_per_token_needs_beta() -> None:
    # Reward -2.4 on average over steps 46 to 50, beta 0.1, 40 tokens: 2.4 / 0.1 / 40 = 0.6 nats.
    rows = curve(lambda t: -2.5 * t, lambda t: -6.0 * t)
    assert "0.6 nats" in find(diagnose(rows, beta=0.1), "far less likely").evidence
    assert "far less likely" not in titles(diagnose(rows))
    assert "far less likely" not in titles(diagnose(rows, beta=0.3))


def test_an_exploding_margin_is_a_warning() -> None:
    findings = diagnose(curve(lambda t: 1.0 * t, lambda t: -18.0 * t))
    assert find(findings, "explodes").level == "warning"
    assert "explodes" not in titles(diagnose(healthy()))


def test_accuracy_on_training_pairs_alone_is_overfitting() -> None:
    rows = curve(lambda t: t, lambda t: -t, rewards_accuracy=1.0)
    rows[-1]["rewards_accuracy"] = 0.7
    finding = find(diagnose(rows), "memorizes")
    assert finding.level == "warning"
    assert "100 % on training pairs, 70 % on held-out" in finding.evidence.replace(THIN, " ")
    rows[-1]["rewards_accuracy"] = 0.95
    assert "memorizes" not in titles(diagnose(rows))


def test_pairs_that_are_told_apart_at_once_are_a_note() -> None:
    rows = curve(lambda t: t, lambda t: -t, rewards_accuracy=1.0)
    assert "easy to rank" not in titles(diagnose(rows))
    for entry in rows[50:]:
        entry["rewards_accuracy"] = 1.0
    finding = find(diagnose(rows), "easy to rank")
    assert finding.level == "note"
    assert "at step 10 of 50" in finding.evidence


def test_no_held_out_pairs_is_a_note_and_a_coin_too() -> None:
    rows = healthy()
    assert find(diagnose(rows[:50]), "held out").level == "note"
    rows[-1]["rewards_accuracy"] = 0.52
    assert find(diagnose(rows), "little better than chance").level == "note"


def test_a_run_without_a_pair_that_counted() -> None:
    rows = [{"step": step, "split": "train", "loss": None, "share_tie": 1.0} for step in (1, 2)]
    finding = find(diagnose(rows), "No pair counted")
    assert finding.level == "warning" and "ties" in finding.evidence


def test_one_held_out_pair_shows_nothing() -> None:
    assert "generalizes" in titles(diagnose(healthy(), held_out=20))
    findings = diagnose(healthy(), held_out=1)
    assert "generalizes" not in titles(findings)
    assert find(findings, "Too few pairs are held out").level == "note"


def test_a_rising_held_out_loss_names_the_best_step() -> None:
    rows = healthy()
    for entry, loss in zip(rows[50:], [0.6, 0.5, 0.45, 0.5, 0.55], strict=True):
        entry["loss"] = loss
    assert "0.45 at step 30 (best)" in find(diagnose(rows), "rises again").evidence
    rows[-1]["loss"] = 0.46
    assert "rises again" not in titles(diagnose(rows))


def test_pair_lengths_that_differ_are_a_note() -> None:
    rows = curve(lambda t: t, lambda t: -t, chosen_tokens=60.0, rejected_tokens=40.0)
    assert "+50 %" in find(diagnose(rows), "longer than rejected").evidence.replace(THIN, " ")
    assert "than rejected" not in titles(diagnose(healthy()))


@pytest.mark.parametrize(
    ("after", "level", "title"),
    [(41.0, "good", "keep"), (43.0, "note", "longer"), (30.0, "warning", "shorter")],
)
def test_answer_lengths(after: float, level: str, title: str) -> None:
    findings = diagnose(healthy(), answer_lengths=(40.0, after))
    assert find(findings, title).level == level


def test_rewards_without_a_reference_are_not_read_as_changes() -> None:
    """Those of CPO are beta times log-probs: far below 0 from the start, and so is a margin."""
    for rows in (curve(lambda t: -40.0, lambda t: -20.0), curve(lambda t: -60.0, lambda t: -90.0)):
        assert len(diagnose(rows, beta=0.1)) > len(diagnose(rows, beta=0.1, has_reference=False))
        findings = diagnose(rows, beta=0.1, has_reference=False)
        assert titles(findings) == "The model generalizes to held-out pairs"
    assert not compares_with_reference({"objective": {"name": "cpo", "needs_reference": False}})
    assert compares_with_reference({})


def test_rewards_of_means_are_read_on_the_loss_own_scale() -> None:
    """A margin of 0.04 leaves the loss where it was, though sums of 40 tokens differ by 16 nats."""
    rows = curve(lambda t: 0.02 * t, lambda t: -0.02 * t)
    finding = find(diagnose(rows, beta=0.1, of_means=True), "stays at its first value")
    assert "Nothing" not in finding.title and "Raise beta" in finding.explanation
    assert "means over tokens" in finding.evidence
    moved = find(
        diagnose(curve(lambda t: t, lambda t: -t), beta=1.0, of_means=True), "as they should"
    )
    assert moved.evidence.endswith("of means over tokens")


def test_chosen_answers_that_fall_are_seen_in_means() -> None:
    """-0.6 at beta 1 are 0.6 nats a token, not 0.6 / 40; -0.04 at beta 1 are 1.6 nats an answer."""
    far = curve(lambda t: -0.6, lambda t: -2.0 * t)
    assert "0.6 nats" in find(diagnose(far, beta=1.0, of_means=True), "far less").evidence
    assert "far less" not in titles(diagnose(far, beta=1.0))
    stuck = curve(lambda t: -0.06, lambda t: -0.07)
    assert "0.6 nats" in find(diagnose(stuck, beta=0.1, of_means=True), "far less").evidence
    little = curve(lambda t: -0.04, lambda t: -0.3)
    assert "Both rewards fall" in titles(diagnose(little, beta=1.0, of_means=True))
    assert "as they should" in titles(diagnose(little, beta=1.0))


def test_chosen_answers_that_fall_are_seen_without_a_reference() -> None:
    """On held-out pairs, the same ones at step 0: -2 becomes -4.5 at beta 2, 1.25 nats a token."""
    simpo = curve(lambda t: -2.0 - 2.5 * t, lambda t: -3.0 - 9.0 * t)
    simpo.append(row(0, -2.0, -3.0, "eval"))
    simpo.sort(key=lambda one: one["step"])
    findings = diagnose(simpo, beta=2.0, has_reference=False, of_means=True)
    finding = find(findings, "far less")
    assert "1.25 nats" in finding.evidence and "raise beta" not in finding.explanation
    assert "far less" not in titles(diagnose(simpo, beta=6.0, has_reference=False, of_means=True))


@pytest.mark.parametrize(
    ("objective", "scale"),
    [
        ({"rewards": {"beta": 0.3, "of": "means"}, "options": {"beta": 0.1}}, (0.3, True)),
        ({"rewards": {"beta": 0.3, "of": "sums"}}, (0.3, False)),
        ({"options": {"loss": "simpo", "beta": 2.0}}, (2.0, True)),
        ({"options": {"loss": "ipo", "beta": 0.9, "per_token": True}}, (0.9, False)),
        (None, (None, False)),
    ],
)
def test_what_rewards_are_is_read_from_the_record(
    objective: Any, scale: tuple[float | None, bool]
) -> None:
    """An older version logged sums beside `per_token`."""
    assert reward_scale({"objective": objective}) == scale


def test_few_steps_are_said_and_an_empty_log_is_a_warning() -> None:
    assert find(diagnose(healthy()[:5]), "Too few").level == "note"
    assert find(diagnose([]), "No training step").level == "warning"


@pytest.mark.parametrize(
    ("end", "level", "title"),
    [(0.5, "good", "falls"), (0.995, "note", "hardly moves"), (1.5, "warning", "rises")],
)
def test_sft_loss(end: float, level: str, title: str) -> None:
    rows: list[Row] = [
        {"step": step, "split": "train", "loss": 1 + (end - 1) * step / 50} for step in range(51)
    ]
    assert find(diagnose(rows, algorithm="sft"), title).level == level


def test_the_gravest_comes_first() -> None:
    findings = diagnose(curve(lambda t: t, lambda t: -18.0 * t, chosen_tokens=60.0))
    assert [finding.level for finding in findings] == ["warning", "note", "good", "good"]
