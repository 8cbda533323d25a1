"""Whether a reward that rises is worth it: the reward, truth and length of one run side by side.

What is rewarded is a stand-in. Optimized for long enough, it goes up by whatever makes it go up:
mostly longer responses, and claims that nobody checks. Thresholds are our choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from veridical.report.curves import Rows, mean, number, percent, series, start_and_end
from veridical.report.findings import Diagnosis

# How many standard errors of a tenth of the run a figure has to move to have moved.
MOVED = 3.0
# Responses that grow by this share without truth's gain.
LENGTH_GROWTH = 0.15
# Entropy that is left of what it was.
ENTROPY_LEFT = 0.2
# Responses that the limit cuts, and prompts that the judge could not score, at the end.
CUT_SHARE = 0.2
FEWEST_STEPS = 10


def reward_findings(train: Rows, evaluation: Rows = ()) -> list[Diagnosis]:
    """What the curves of a run of reinforcement learning mean, gravest first."""
    held_out = _held_out(evaluation)
    if len(series(train, "reward")) < FEWEST_STEPS:
        return held_out
    found = _parted(train) + held_out + _collapsed(train) + _cut(train) + _unscored(train)
    return found or _risen(train)


def movement(rows: Rows, name: str) -> tuple[float, float, float] | None:
    """A figure's mean over the first and the last tenth, and their distance in standard errors.

    The noise is that of neighboring steps against each other, so that a trend is none of it.
    """
    ends = start_and_end(rows, name)
    values = [value for _, value in series(rows, name)]
    if ends is None or len(values) < FEWEST_STEPS:
        return None
    jumps = [(b - a) ** 2 / 2 for a, b in itertools.pairwise(values)]
    a_tenth = max(1, round(len(values) / 10))
    error = math.sqrt(2 * mean(jumps) / a_tenth)
    distance = ends[1] - ends[0]
    return *ends, distance / error if error > 0 else math.copysign(math.inf, distance or 0.0)


def standardized(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A curve in its own standard deviations, from where it started, so that several fit a plot."""
    values = [value for _, value in points]
    if not values:
        return []
    spread = math.sqrt(mean([(value - mean(values)) ** 2 for value in values]))
    start = mean(values[: max(1, round(len(values) / 10))])
    return [(step, (value - start) / spread if spread > 0 else 0.0) for step, value in points]


def _parted(train: Rows) -> list[Diagnosis]:
    proxy, truth = movement(train, "judge_score"), movement(train, "exact_score")
    length = movement(train, "response_tokens")
    if proxy is None or truth is None or proxy[2] < MOVED:
        return []
    evidence = (
        f"the judge's score {number(proxy[0])} to {number(proxy[1])}, the exact judge's "
        f"{number(truth[0])} to {number(truth[1])}"
    )
    if length is not None:
        evidence += f", tokens a response {number(length[0])} to {number(length[1])}"
    if truth[2] < -MOVED:
        return [
            Diagnosis(
                "warning",
                "The reward rises and truth falls",
                "The policy learns what the reward model scores highly, not what is in the image. "
                "Stop at the step where the curves separate, raise the KL penalty, or give the "
                "reward model facts, and look at the samples.",
                evidence,
            )
        ]
    if truth[2] >= MOVED:
        return []
    if length is not None and length[1] > length[0] * (1 + LENGTH_GROWTH):
        return [
            Diagnosis(
                "warning",
                "The reward rises with the length, and truth does not",
                "The policy learns to write longer responses. Set a --length-penalty, or raise the "
                "KL penalty.",
                evidence,
            )
        ]
    return [
        Diagnosis(
            "warning",
            "The reward rises and truth does not follow",
            "The policy learns what the reward model scores highly, but the exact judge's score "
            "does not rise. Train the reward model on more pairs, the policy's own responses "
            "included, or give it facts.",
            evidence,
        )
    ]


def _held_out(evaluation: Rows) -> list[Diagnosis]:
    """Whether the reward of held-out prompts has fallen from its best, by more than its noise."""
    rows = [row for row in evaluation if row.get("reward") is not None and row.get("prompts")]
    if len(rows) < 2:
        return []
    best, last = max(rows, key=lambda row: float(row["reward"])), rows[-1]
    deviation = max(float(row.get("reward_deviation") or 0.0) for row in (best, last))
    error = deviation / math.sqrt(last["prompts"])
    if best["reward"] - last["reward"] <= MOVED * error:
        return []
    return [
        Diagnosis(
            "warning",
            "The held-out reward falls again",
            "After its best step the policy gets worse on prompts it was not trained on. Use "
            "the best checkpoint (--select-by reward) rather than the last, stop about there next "
            "time (--patience), or lower the learning rate.",
            f"held-out reward {number(best['reward'])} at step {best['step']} (best), "
            f"{number(last['reward'])} at step {last['step']} (last), "
            f"{last['prompts']} prompts",
        )
    ]


def _collapsed(train: Rows) -> list[Diagnosis]:
    entropy = start_and_end(train, "entropy")
    if entropy is None or entropy[0] <= 0 or entropy[1] > ENTROPY_LEFT * entropy[0]:
        return []
    return [
        Diagnosis(
            "warning",
            "The policy gives nearly the same answer to every prompt",
            "Its entropy is nearly gone, so there is little left to learn from. Lower the learning "
            "rate or raise the KL penalty, and take an earlier checkpoint.",
            f"entropy {number(entropy[0])} to {number(entropy[1])} nats a token",
        )
    ]


def _cut(train: Rows) -> list[Diagnosis]:
    cut = start_and_end(train, "response_cut")
    if cut is None or cut[1] < CUT_SHARE:
        return []
    return [
        Diagnosis(
            "note",
            "Many responses are cut by the limit",
            "They have no end token to learn. Raise --max-new-tokens, or set --no-end-penalty.",
            f"{percent(cut[1])} of responses at the end, {percent(cut[0])} at the start",
        )
    ]


def _unscored(train: Rows) -> list[Diagnosis]:
    missing = sum(value for _, value in series(train, "unscored"))
    if not missing:
        return []
    return [
        Diagnosis(
            "note",
            "Some responses could not be scored",
            "They were left out of the steps that sampled them.",
            f"{missing:g} prompts over {len(train)} steps",
        )
    ]


def _risen(train: Rows) -> list[Diagnosis]:
    reward = movement(train, "reward")
    if reward is None:
        return []
    shown = f"reward {number(reward[0])} to {number(reward[1])}"
    if reward[2] >= MOVED:
        truth = movement(train, "exact_score")
        with_truth = truth is not None and truth[2] >= MOVED
        means = "The exact judge's score rises with it." if with_truth else "Evaluate the result."
        return [Diagnosis("good", "The reward rises", means, shown)]
    return [
        Diagnosis(
            "note",
            "The reward did not rise",
            "Raise the learning rate or the number of steps, or lower the KL penalty.",
            shown,
        )
    ]
