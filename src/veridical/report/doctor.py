"""The run doctor: what a run's curves mean, in words, with the figures that say so.

Pure functions over the rows of `log.jsonl`. Every threshold is a constant below, and every one
is our choice: they were set so that healthy runs of this package pass and the troubles that
people most often ask about are named, not taken from a paper.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from veridical.report.accuracy import accuracy_findings
from veridical.report.curves import Rows, number, percent, series, start_and_end
from veridical.report.findings import (
    Diagnosis,
    answer_length_change,
    eval_loss,
    pair_lengths,
    sft_loss,
)
from veridical.report.hacking import reward_findings
from veridical.report.wording import count_of

FIGURES = (
    "loss",
    "rewards_chosen",
    "rewards_rejected",
    "rewards_margin",
    "rewards_accuracy",
    "logps_chosen",
    "logps_rejected",
    "gradient_norm",
)

Algorithm: TypeAlias = Literal["dpo", "sft", "rl", "reward"]
# Fewer logged steps than this say little about a trend.
FEWEST_STEPS = 10
# A margin below this leaves the sigmoid loss within 0.025 of ln 2.
STUCK_MARGIN = 0.05
# Margins and rewards are read as the loss reads them, of sums over tokens or of their means: the
# sigmoid's argument is the same. Where something is said of answers, means become sums again.
# Rewards nearer to zero than this after training are those of an unchanged policy.
FROZEN_REWARD = 1e-6
# A reward (beta times the change in log-probability) moves when it passes this.
REWARD_MOVED = 0.05
# The same of an answer's log-probability, in nats: REWARD_MOVED at the usual beta of 0.1.
ANSWER_MOVED = 0.5
# Where the chosen answers lose more than this per token, each token is at 0.6 of its probability.
CHOSEN_FALL_PER_TOKEN = 0.5
# At a margin of 15 the gradient of the sigmoid loss is down to 3e-7 of its first value.
EXPLODED_MARGIN = 15.0


def diagnose(
    log: Rows,
    algorithm: Algorithm = "dpo",
    beta: float | None = None,
    answer_lengths: tuple[float, float] | None = None,
    held_out: int | None = None,
    has_reference: bool = True,
    of_means: bool = False,
) -> list[Diagnosis]:
    """Say what a training run's curves mean, gravest first.

    Args:
        log: rows of `log.jsonl`, training and held-out, in order of their steps.
        algorithm: "dpo" reads pairs' rewards, "sft" the loss alone, "rl" what judges gave,
            "reward" how a reward model ranks.
        beta: of the loss whose rewards were logged; turns these into log-probability. Unknown:
            skipped.
        answer_lengths: mean length of the answers before and after training, in words.
        held_out: how many pairs were held out. Unknown: taken for enough.
        has_reference: whether pairs' rewards compare with a reference; those of SimPO, CPO and
            ORPO are not 0 at the start, and only what becomes of them on held-out pairs is read.
        of_means: whether rewards are of means over tokens, and not of sums.
    """
    train = [row for row in log if row.get("split", "train") == "train"]
    evaluation = [row for row in log if row.get("split") == "eval"]
    broken = _not_finite(log)
    if broken:
        return broken
    if not train:
        return [_nothing_logged()]
    found = _short(train)
    if algorithm == "rl":
        found += reward_findings(train, evaluation)
    elif algorithm == "reward":
        found += accuracy_findings(train, evaluation, held_out)
    elif algorithm == "sft":
        found += sft_loss(train)
    elif all(row.get("loss") is None for row in train):
        found.append(_no_pair_counted(train))
    else:
        if has_reference:
            stuck = _stuck(train, of_means)
            found += stuck or _branches(train, beta, of_means)
            if of_means or not stuck:  # of a mean that hardly moves the sum may move far
                change = _end(train, "rewards_chosen")
                found += _chosen_falls(change, train, beta, of_means, "raise beta, ")
            found += _margin_explodes(train)
        else:
            # The same pairs at every evaluation; training rows are others at each step.
            rewards = [value for _, value in series(evaluation, "rewards_chosen")]
            change = rewards[-1] - rewards[0] if rewards else None
            found += _chosen_falls(change, evaluation, beta, of_means)
        found += accuracy_findings(train, evaluation, held_out) + pair_lengths(train)
    found += eval_loss(evaluation) + answer_length_change(answer_lengths)
    order = {"warning": 0, "note": 1, "good": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def _end(rows: Rows, name: str) -> float | None:
    ends = start_and_end(rows, name)
    return None if ends is None else ends[1]


def _nothing_logged() -> Diagnosis:
    return Diagnosis(
        "warning",
        "No training step was logged",
        "The run stopped before its first step, or its log was not copied. Look at the status in "
        "run.json and start the run again.",
        "log.jsonl has no training row",
    )


def _no_pair_counted(train: Rows) -> Diagnosis:
    kinds = {"share_tie": "ties", "share_cut": "cut off", "share_unscored": "without a verdict"}
    last = train[-1]
    shares = [f"{percent(last[name])} {word}" for name, word in kinds.items() if last.get(name)]
    return Diagnosis(
        "warning",
        "No pair counted in any step",
        "The weights are still those of the start. Ties and answers that were cut off are not "
        "learned from. Take more prompts, a higher --temperature, a larger --max-new-tokens, or "
        "another judge.",
        "no step has a loss" + (f"; at the last one {', '.join(shares)}" if shares else ""),
    )


def _not_finite(log: Rows) -> list[Diagnosis]:
    for row in log:
        for name in FIGURES:
            value = row.get(name)
            if value is not None and not math.isfinite(float(value)):
                return [
                    Diagnosis(
                        "warning",
                        "A figure is not a number",
                        "From here on the weights are worthless. Usual causes: a learning rate "
                        "that is too large, float16 without loss scaling (use bfloat16 or "
                        "float32), or a row with an empty answer. Start again from the last good "
                        "checkpoint with a tenth of the learning rate.",
                        f"{name} is {float(value)} at step {row.get('step')} "
                        f"({row.get('split', 'train')})",
                    )
                ]
    return []


def _short(train: Rows) -> list[Diagnosis]:
    if len(train) >= FEWEST_STEPS:
        return []
    return [
        Diagnosis(
            "note",
            "Too few steps to see a trend",
            "The findings below are based on very few steps. Train longer or log more often.",
            f"{count_of(len(train), 'training step')} logged, {FEWEST_STEPS} are needed",
        )
    ]


def _stuck(train: Rows, of_means: bool) -> list[Diagnosis]:
    margin = _end(train, "rewards_margin")
    if margin is None or abs(margin) >= STUCK_MARGIN:
        return []
    explanation, cause = _why_stuck(train, of_means)
    evidence = f"margin {number(margin)} at the end, below {STUCK_MARGIN} in size; {cause}"
    return [
        Diagnosis(
            "warning",
            "The loss stays at its first value"
            if of_means
            else "Nothing was learned: the loss stays at its first value",
            explanation,
            evidence,
        )
    ]


def _why_stuck(train: Rows, of_means: bool) -> tuple[str, str]:
    rewards = [value for name in FIGURES[1:3] for _, value in series(train, name)]
    if rewards and max(abs(value) for value in rewards) < FROZEN_REWARD:
        return (
            "Both rewards are exactly zero, so the policy still equals its reference: nothing is "
            "trainable, the learning rate is zero, or policy and reference are the same object. "
            "Check which parameters train and the learning rate in run.json.",
            "all rewards are zero",
        )
    chosen, rejected = series(train, "logps_chosen"), series(train, "logps_rejected")
    if chosen and chosen == rejected:
        return (
            "Chosen and rejected answers have the same log-probability in every batch: the pairs "
            "are the same text twice. Look at the pairs and at how they were built.",
            "both log-probabilities are equal at every step",
        )
    if of_means:
        return (
            "The policy changes, but at this beta the loss hardly feels it: means over tokens "
            "differ less than sums, by a factor of the answers' length. Raise beta (1 to 10 is "
            "usual with means), raise the learning rate, or train longer. If that does not help, "
            "the pairs contain no signal: look at some of them.",
            "rewards are of means over tokens, and not zero",
        )
    return (
        "The policy changes, but chosen and rejected answers do not separate. Most often the "
        "learning rate is too small or the run too short; raise the learning rate three to ten "
        "times. If that does not help, the pairs contain no signal: look at some of them.",
        "the rewards are not zero",
    )


def _branches(train: Rows, beta: float | None, of_means: bool) -> list[Diagnosis]:
    chosen, rejected = _end(train, "rewards_chosen"), _end(train, "rewards_rejected")
    if chosen is None or rejected is None:
        return []
    evidence = (
        f"rewards at the end: chosen {number(chosen)}, rejected {number(rejected)}, "
        f"margin {number(chosen - rejected)}{', of means over tokens' if of_means else ''}"
    )
    if rejected > chosen:
        return [_inverted(evidence)]
    tokens = _end(train, "chosen_tokens")
    kept = chosen > -REWARD_MOVED
    if of_means and beta and tokens:
        kept = chosen / beta * tokens > -ANSWER_MOVED
    if kept:
        return [
            Diagnosis(
                "good",
                "Chosen and rejected answers separate as they should",
                "Compared with the reference, the chosen answers have kept or gained probability "
                "and the rejected ones have lost some.",
                evidence,
            )
        ]
    return [_both_fall(chosen, rejected, evidence)]


def _inverted(evidence: str) -> Diagnosis:
    return Diagnosis(
        "warning",
        "The model learns in the wrong direction",
        "The rejected answers gain more than the chosen ones. Either the columns are swapped "
        "in the data, or the learning rate is so large that training diverges. Look at some pairs.",
        evidence,
    )


def _both_fall(chosen: float, rejected: float, evidence: str) -> Diagnosis:
    if -chosen > chosen - rejected:
        return Diagnosis(
            "warning",
            "Both rewards fall, and the chosen one too far",
            "The chosen answers have lost more than the margin has gained: probability is moving "
            "to answers that are in neither branch, and the model may start to ramble. Add the "
            "NLL term on the chosen answer, raise beta, or lower the learning rate.",
            evidence,
        )
    return Diagnosis(
        "note",
        "Both rewards fall, which is normal here",
        "DPO only needs the margin to grow, and it does. Chosen and rejected answers share most "
        "of their words, so pushing one down drags the other along. It becomes worrying when the "
        "chosen reward falls by more than the margin gains; then add the NLL term on the chosen "
        "answer, raise beta, or lower the learning rate.",
        evidence,
    )


def _chosen_falls(
    change: float | None, rows: Rows, beta: float | None, of_means: bool, besides: str = ""
) -> list[Diagnosis]:
    """From the change of the chosen answers' reward since the start."""
    tokens = 1.0 if of_means else _end(rows, "chosen_tokens")
    if change is None or not tokens or not beta:
        return []
    fall = -change / beta / tokens
    if fall < CHOSEN_FALL_PER_TOKEN:
        return []
    return [
        Diagnosis(
            "warning",
            "The chosen answers have become far less likely",
            "The model is moving away from the very answers it should prefer, and its language "
            f"suffers. Add the NLL term on the chosen answer, {besides}or train for fewer steps.",
            f"{number(fall)} nats lost per token of the chosen answers: each is at "
            f"{percent(math.exp(-fall))} of its probability (limit {CHOSEN_FALL_PER_TOKEN} nats)",
        )
    ]


def _margin_explodes(train: Rows) -> list[Diagnosis]:
    margin = _end(train, "rewards_margin")
    if margin is None or margin < EXPLODED_MARGIN:
        return []
    return [
        Diagnosis(
            "warning",
            "The margin explodes",
            "The loss was satisfied long ago, and training only moves the policy away from "
            "its reference. Take an earlier checkpoint, train for fewer steps, lower the learning "
            "rate, or use label smoothing.",
            f"margin {number(margin)} at the end (limit {EXPLODED_MARGIN:g})",
        )
    ]
