"""What the run doctor finds in any training run: losses and lengths.

The thresholds are our choice, as all of the doctor's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from veridical.report.curves import Rows, mean, number, percent, series, start_and_end

Level = Literal["good", "note", "warning"]

# The last held-out loss may lie this far above the best one, absolutely and as a share of it.
EVAL_LOSS_RISE = 0.02
EVAL_LOSS_RISE_SHARE = 0.05
# Chosen against rejected length in the pairs; answers' length after against before.
PAIR_LENGTH_GAP = 0.10
ANSWER_LENGTH_NOTE = 0.05
ANSWER_LENGTH_WARNING = 0.10
# SFT: the training loss has to fall by this share to count as learning.
SFT_FALL_SHARE = 0.02


@dataclass(frozen=True)
class Diagnosis:
    """One thing the doctor says: how grave, what, what it means and what to do, on what figures."""

    level: Level
    title: str
    explanation: str
    evidence: str


def eval_loss(evaluation: Rows) -> list[Diagnosis]:
    """Whether the held-out loss has risen from its best."""
    losses = series(evaluation, "loss")
    if len(losses) < 2:
        return []
    best_step, best = min(losses, key=lambda item: item[1])
    last_step, last = losses[-1]
    evidence = (
        f"held-out loss {number(best)} at step {best_step:g} (best), "
        f"{number(last)} at step {last_step:g} (last)"
    )
    if last - best > max(EVAL_LOSS_RISE, EVAL_LOSS_RISE_SHARE * abs(best)):
        return [
            Diagnosis(
                "warning",
                "The held-out loss rises again",
                "After its best step the run overfits. Use the best checkpoint rather than the "
                "last, and stop about there next time.",
                evidence,
            )
        ]
    return []


def pair_lengths(train: Rows) -> list[Diagnosis]:
    """Whether one branch of the pairs is longer than the other."""
    chosen = [value for _, value in series(train, "chosen_tokens")]
    rejected = [value for _, value in series(train, "rejected_tokens")]
    if not chosen or not rejected or not sum(rejected):
        return []
    ratio = mean(chosen) / mean(rejected)
    if abs(ratio - 1) < PAIR_LENGTH_GAP:
        return []
    word = "longer" if ratio > 1 else "shorter"
    return [
        Diagnosis(
            "note",
            f"Chosen answers are {word} than rejected ones",
            f"DPO can win by writing {word} answers instead of truer ones. Watch the answers' "
            "length in the evaluation, and balance the lengths in the pairs if it drifts.",
            f"{mean(chosen):.1f} tokens chosen, {mean(rejected):.1f} rejected "
            f"({percent(ratio - 1, '+.0f')})",
        )
    ]


def answer_length_change(lengths: tuple[float, float] | None) -> list[Diagnosis]:
    """How the answers' mean length has changed: (before, after), in words."""
    if lengths is None or not lengths[0]:
        return []
    before, after = lengths
    change = after / before - 1
    evidence = f"{before:.1f} words before, {after:.1f} after ({percent(change, '+.1f')})"
    if abs(change) < ANSWER_LENGTH_NOTE:
        return [
            Diagnosis(
                "good",
                "The answers keep their length",
                "Shorter answers do not explain a change in hallucinations.",
                evidence,
            )
        ]
    word = "longer" if change > 0 else "shorter"
    level: Level = "warning" if abs(change) >= ANSWER_LENGTH_WARNING else "note"
    return [
        Diagnosis(
            level,
            f"The answers have become {word}",
            "Shorter answers hallucinate less just because they say less, and longer ones more. "
            "Compare recall too; balance the pairs' lengths or train for fewer steps.",
            evidence,
        )
    ]


def sft_loss(train: Rows) -> list[Diagnosis]:
    """Whether the loss of supervised fine-tuning falls."""
    ends = start_and_end(train, "loss")
    if ends is None:
        return []
    start, end = ends
    evidence = f"training loss {number(start)} at the start, {number(end)} at the end"
    if end > start * (1 + EVAL_LOSS_RISE_SHARE):
        return [
            Diagnosis(
                "warning",
                "The training loss rises",
                "Training diverges. Lower the learning rate, or warm it up.",
                evidence,
            )
        ]
    if end > start * (1 - SFT_FALL_SHARE):
        return [
            Diagnosis(
                "note",
                "The loss hardly moves",
                "Either the model was already trained on answers like these (then this is what "
                "continued training looks like), or the learning rate is too small.",
                evidence,
            )
        ]
    return [
        Diagnosis("good", "The loss falls", "The model learns to write these answers.", evidence)
    ]
