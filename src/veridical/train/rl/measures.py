"""What reinforcement learning logs of a step: means over the responses of all processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

import torch
from torch import Tensor

from veridical.objectives.grpo import equal_rewards
from veridical.objectives.policy_gradient import kl_terms
from veridical.runtime import processes
from veridical.runtime.float64 import in_float64
from veridical.runtime.run_files import LogRow
from veridical.train.rl.experience import Experience

SHOWN = 2
"""Responses of a step that the log shows (our choice)."""
ROUNDING = 1e-12
"""Relative to the mean square: what float64 leaves of a sum of equal numbers."""


def measures_of(experience: Experience, k: int = 1) -> LogRow:
    """What was sampled and earned, before anything is learned from it.

    A figure is None where no response counts.

    `reward` is what is optimized, `reward_deviation` how much it differs, `judge_score` the judge's
    own scale, `exact_score` truth's where it watches. `kl_k1` and `kl_k3` are nats a response,
    `entropy` nats a token. `equal_groups` counts the prompts whose responses all earned the same.

    Args:
        experience: of this process; all have to take part.
        k: responses to each prompt.
    """
    sampled, mask = experience.sampled, experience.sampled.mask
    responses = [response for one in experience.answered for response in one.responses]
    earned = [one.rewarded for one in experience.answered]

    def mean(values: list[float]) -> float | None:
        # Summed exactly, so that two evaluations that are equal are so in any order of the prompts.
        every = [value for own in processes.gather(values) for value in own]
        return fmean(every) if every else None

    def by_response(tokens: Tensor) -> float | None:
        return mean_over_all(torch.where(mask, tokens, 0.0).sum(-1))

    logps, reference = sampled.logps, sampled.reference_logps
    lengths = [len(response.token_ids) for response in responses]
    cut = [float(response.stop_reason == "length") for response in responses]
    rewards = [reward for one in earned for reward in one.rewards]
    average, square = mean(rewards), mean([reward * reward for reward in rewards])
    row: LogRow = {
        "reward": average,
        "reward_deviation": _deviation(average, square),
        "judge_score": mean([score for one in earned for score in one.scores]),
        "response_tokens": mean([float(length) for length in lengths]),
        "response_cut": mean(cut),
        "kl_k1": by_response(kl_terms(logps, reference, "k1")),
        "kl_k3": by_response(kl_terms(logps, reference, "k3")),
        "entropy": mean_over_all(experience.entropies, mask),
        "unscored": sum(processes.gather(experience.unscored)),
        "refused": sum(processes.gather(experience.refused)),
    }
    if k > 1:
        equal = int(equal_rewards(sampled.scores.view(-1, k)).sum())
        row["equal_groups"] = sum(processes.gather(equal)) if average is not None else None
    if any(processes.gather(any(one.exact for one in earned))):
        row["exact_score"] = mean([score for one in earned for score in one.exact])
    return row


def mean_over_all(values: Tensor, mask: Tensor | None = None) -> float | None:
    """The mean over what counts in all processes; None where nothing does."""
    chosen = in_float64(values if mask is None else values[mask])
    parts = processes.total(torch.stack([chosen.sum(), chosen.new_tensor(chosen.numel())]))
    return float(parts[0] / parts[1]) if parts[1] > 0 else None


def _deviation(mean: float | None, square: float | None) -> float | None:
    """The standard deviation; 0 where all is rounding."""
    if mean is None or square is None:
        return None
    spread = square - mean * mean
    return math.sqrt(spread) if spread > ROUNDING * square else 0.0


def _place(row: Mapping[str, object]) -> int:
    place = row["place"]
    assert isinstance(place, int)
    return place


def shown_responses(experience: Experience) -> list[dict[str, object]]:
    """A few responses with what they earned: the step's first prompts, whoever sampled them."""
    own: list[dict[str, object]] = [
        {
            "place": one.place,
            "id": one.group.id,
            "text": one.responses[0].text,
            "reward": one.rewarded.rewards[0],
            "score": one.rewarded.scores[0],
            **({"exact": one.rewarded.exact[0]} if one.rewarded.exact else {}),
        }
        for one in experience.answered[:SHOWN]
    ]
    found = [row for rows in processes.gather(own) for row in rows]
    return sorted(found, key=_place)[:SHOWN]
