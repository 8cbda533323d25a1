"""What the run doctor says of how well pairs are ranked, held-out ones beside those trained on.

Every threshold is our choice, as the doctor's are.
"""

from __future__ import annotations

from collections.abc import Sequence

from veridical.report.curves import Rows, percent, series, start_and_end
from veridical.report.findings import Diagnosis

# Of fewer held-out pairs a share is off by more than ten points (one standard error) by chance.
FEWEST_HELD_OUT = 20
# Accuracy on the training pairs that is next to perfect, and the gap to held-out pairs.
SATURATED_ACCURACY = 0.98
ACCURACY_GAP = 0.10
# Held-out accuracy this high within the first quarter of the run: the pairs are easy.
EASY_ACCURACY = 0.99
EASY_SHARE = 0.25
# Held-out accuracy that beats a coin.
LEARNED_ACCURACY = 0.6


def accuracy_findings(train: Rows, evaluation: Rows, count: int | None) -> list[Diagnosis]:
    """Say whether held-out pairs are ranked as well as those that were trained on.

    Args:
        train: training rows of `log.jsonl`.
        evaluation: held-out rows of it.
        count: how many pairs were held out. None: taken for enough.
    """
    ends = start_and_end(train, "rewards_accuracy")
    held_out = series(evaluation, "rewards_accuracy")
    if ends is None:
        return []
    trained = ends[1]
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
