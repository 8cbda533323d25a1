"""The run doctor: what a run's curves mean, in words, with the figures that say so.

Pure functions over the rows of `log.jsonl`. Every threshold is a constant below, and every one
is our choice: they were set so that healthy runs of this package pass and the troubles that
people most often ask about are named, not taken from a paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

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
# Of fewer held-out pairs a share is off by more than ten points (one standard error) by chance.
FEWEST_HELD_OUT = 20
# A margin below this leaves the sigmoid loss within 0.025 of ln 2.
STUCK_MARGIN = 0.05
# Rewards nearer to zero than this after training are those of an unchanged policy.
FROZEN_REWARD = 1e-6
# A reward (beta times the change in log-probability) moves when it passes this.
REWARD_MOVED = 0.05
# Where the chosen answers lose more than this per token, each token is at 0.6 of its probability.
CHOSEN_FALL_PER_TOKEN = 0.5
# At a margin of 15 the gradient of the sigmoid loss is down to 3e-7 of its first value.
EXPLODED_MARGIN = 15.0
# Accuracy on the training pairs that is next to perfect, and the gap to held-out pairs.
SATURATED_ACCURACY = 0.98
ACCURACY_GAP = 0.10
# Held-out accuracy this high within the first quarter of the run: the pairs are easy.
EASY_ACCURACY = 0.99
EASY_SHARE = 0.25
# Held-out accuracy that beats a coin.
LEARNED_ACCURACY = 0.6


def diagnose(
    log: Rows,
    algorithm: Algorithm = "dpo",
    beta: float | None = None,
    answer_lengths: tuple[float, float] | None = None,
    held_out: int | None = None,
    has_reference: bool = True,
) -> list[Diagnosis]:
    """Say what a training run's curves mean, gravest first.

    Args:
        log: rows of `log.jsonl`, training and held-out, in order of their steps.
        algorithm: "dpo" reads pairs' rewards, "sft" the loss alone, "rl" what judges gave,
            "reward" how a reward model ranks.
        beta: DPO's beta; turns rewards into changes of log-probability. Unknown: skipped.
        answer_lengths: mean length of the answers before and after training, in words.
        held_out: how many pairs were held out. Unknown: taken for enough.
        has_reference: whether pairs' rewards compare with a reference; those of SimPO, CPO and
            ORPO are not 0 at the start, and nothing is read from their size.
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
        found += _accuracy(train, evaluation, held_out)
    elif algorithm == "sft":
        found += sft_loss(train)
    elif all(row.get("loss") is None for row in train):
        found.append(_no_pair_counted(train))
    else:
        if has_reference:
            found += _stuck(train) or _branches(train) + _chosen_falls(train, beta)
            found += _margin_explodes(train)
        found += _accuracy(train, evaluation, held_out) + pair_lengths(train)
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


def _stuck(train: Rows) -> list[Diagnosis]:
    margin = _end(train, "rewards_margin")
    if margin is None or abs(margin) >= STUCK_MARGIN:
        return []
    explanation, cause = _why_stuck(train)
    evidence = f"margin {number(margin)} at the end, below {STUCK_MARGIN} in size; {cause}"
    return [
        Diagnosis(
            "warning",
            "Nothing was learned: the loss stays at its first value",
            explanation,
            evidence,
        )
    ]


def _why_stuck(train: Rows) -> tuple[str, str]:
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
    return (
        "The policy changes, but chosen and rejected answers do not separate. Most often the "
        "learning rate is too small or the run too short; raise the learning rate three to ten "
        "times. If that does not help, the pairs contain no signal: look at some of them.",
        "the rewards are not zero",
    )


def _branches(train: Rows) -> list[Diagnosis]:
    chosen, rejected = _end(train, "rewards_chosen"), _end(train, "rewards_rejected")
    if chosen is None or rejected is None:
        return []
    evidence = (
        f"rewards at the end: chosen {number(chosen)}, rejected {number(rejected)}, "
        f"margin {number(chosen - rejected)}"
    )
    if rejected > chosen:
        return [_inverted(evidence)]
    if chosen > -REWARD_MOVED:
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


def _chosen_falls(train: Rows, beta: float | None) -> list[Diagnosis]:
    reward, tokens = _end(train, "rewards_chosen"), _end(train, "chosen_tokens")
    if reward is None or not tokens or not beta:
        return []
    fall = -reward / beta / tokens
    if fall < CHOSEN_FALL_PER_TOKEN:
        return []
    return [
        Diagnosis(
            "warning",
            "The chosen answers have become far less likely",
            "The model is moving away from the very answers it should prefer, and its language "
            "suffers. Add the NLL term on the chosen answer, raise beta, or train for fewer steps.",
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


def _accuracy(train: Rows, evaluation: Rows, count: int | None) -> list[Diagnosis]:
    trained, held_out = _end(train, "rewards_accuracy"), series(evaluation, "rewards_accuracy")
    if trained is None:
        return []
    if not held_out:
        return [
            Diagnosis(
                "note",
                "No pairs were held out",
                "Without them, learning can't be distinguished from memorizing. Hold out some of "
                "the pairs for evaluation.",
                f"accuracy {percent(trained)} on the training pairs, none on held-out ones",
            )
        ]
    last = held_out[-1][1]
    evidence = (
        f"accuracy {percent(trained)} on training pairs, "
        f"{percent(last)} on held-out pairs at the end"
    )
    if count is not None and count < FEWEST_HELD_OUT:
        return [
            Diagnosis(
                "note",
                "Too few pairs are held out",
                "With so few, neither accuracy nor the selected checkpoint shows whether the model "
                "generalizes. Build more pairs, or raise --held-out.",
                f"{evidence}; held-out pairs: {count}, {FEWEST_HELD_OUT} are needed",
            )
        ]
    if trained >= SATURATED_ACCURACY and trained - last >= ACCURACY_GAP:
        return [_overfits(evidence)]
    if last >= LEARNED_ACCURACY:
        return [_generalizes(evidence), *_easy(held_out)]
    return [
        Diagnosis(
            "note",
            "Held-out pairs are ranked little better than chance",
            "The model has not learned to rank pairs that it was not trained on. Build more pairs, "
            "or train a little longer while the held-out loss still falls.",
            evidence,
        )
    ]


def _overfits(evidence: str) -> Diagnosis:
    return Diagnosis(
        "warning",
        "The model memorizes the training pairs",
        "Training pairs are ranked almost perfectly, held-out pairs clearly worse. Build more "
        "pairs, make fewer passes over them, or lower the learning rate.",
        evidence,
    )


def _easy(held_out: Sequence[tuple[float, float]]) -> list[Diagnosis]:
    final = held_out[-1][0]
    reached = [step for step, value in held_out if step > 0 and value >= EASY_ACCURACY]
    if not reached or reached[0] > EASY_SHARE * final:
        return []
    return [
        Diagnosis(
            "note",
            "The pairs are easy to rank",
            "Held-out pairs were ranked almost perfectly from early on, so accuracy no longer "
            "measures progress; margin and evaluation do. That is usual if the rejected answers "
            "come from a model that could not see. Otherwise look for a give-away such as length.",
            f"held-out accuracy {percent(dict(held_out)[reached[0]])} at step {reached[0]:g} "
            f"of {final:g}",
        )
    ]


def _generalizes(evidence: str) -> Diagnosis:
    return Diagnosis(
        "good",
        "The model generalizes to held-out pairs",
        "The model also ranks pairs that it was not trained on.",
        evidence,
    )
