"""Log-probabilities of given answers, for benchmarks that compare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from veridical.runtime.progress import track

if TYPE_CHECKING:
    from veridical.models.policy import Policy
    from veridical.models.rendering import Group


def answer_logps(
    policy: Policy,
    groups: Sequence[Group],
    batch_size: int,
    label: str,
    change: Callable[[Group], Group] | None = None,
) -> list[list[tuple[float, float]]]:
    """For each group and answer: the sum of its tokens' log-probabilities, and their number.

    Args:
        policy: whose.
        groups: all with the same number of answers.
        batch_size: groups at once.
        label: names the progress line.
        change: made of each group, a batch at a time: pictures take memory.
    """
    import torch

    from veridical.checks.prefix_sharing import sharing
    from veridical.models.batching import collate
    from veridical.models.finite import require_finite
    from veridical.models.logprobs import response_logps

    found: list[list[tuple[float, float]]] = []
    if not groups:
        return found
    policy.model.eval()
    with torch.no_grad():
        share = len(groups[0].response_ids) > 1 and sharing(policy, groups[:2]).allowed
        for start in track(range(0, len(groups), batch_size), f"log-probabilities, {label}"):
            some = groups[start : start + batch_size]
            batch = collate(policy, [change(one) for one in some] if change else some, share)
            logps = response_logps(policy.model, batch)
            require_finite(policy, logps.sums, "log-probabilities of answers")
            sums, counts = logps.sums.tolist(), logps.counts.cpu().double().tolist()
            found += [list(zip(*both, strict=True)) for both in zip(sums, counts, strict=True)]
    return found
