"""Whether a model may share prefixes: an experiment on a real row, decided in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from veridical.checks.controls import (
    HALF_MARGIN,
    blind,
    excess,
    leaking,
    other_kernel,
    rms,
    shifted,
    shifted_at_the_end,
    with_images_turned,
)
from veridical.models.attention import FLEX, TAKES_MASKS, attention_of
from veridical.models.batch import Batch
from veridical.models.batching import row_batch, shared_batch
from veridical.models.logprobs import predicting_states, response_logps
from veridical.models.policy import Policy
from veridical.models.positions import special_layers, window
from veridical.models.precision import dtype_name, exact, working_dtype
from veridical.models.rendering import Group, take_responses
from veridical.models.rounding import rounding_of_logps
from veridical.models.stock_logits import logits_are_the_heads
from veridical.runtime import processes


@dataclass(frozen=True)
class Sharing:
    """Whether a model may share prefixes, and why not if it may not."""

    allowed: bool
    reason: str


def sharing_of_all(policy: Policy, groups: Sequence[Group]) -> Sharing:
    """`sharing` as all processes find it, which have to take part: one refusal is everybody's."""
    every = processes.gather(sharing(policy, groups, together=True))
    return next((one for one in every if not one.allowed), every[0])


def sharing(policy: Policy, groups: Sequence[Group], together: bool = False) -> Sharing:
    """Decide by experiment whether this model computes the same with a shared prefix.

    The attention must take a mask of all pairs of tokens or of their blocks, layers that look
    through a window must be listed, none may recur, and on a real row the responses must not see
    each other and must get the log-probs of the two-row path.

    A model in half precision is tried as a float32 copy, and then has to be as near to that copy
    by this path as by the two-row path. Where no copy fits, the limit is what rounding does to the
    two-row path, over all tokens and at each of them, and broken batches have to be rejected at
    that limit; if one is not, the experiment is blind and two rows are taken.

    Args:
        policy: the model as it will be trained.
        groups: a few real rows with at least two responses.
        together: every process asks this now, of the same rows.
    """
    attention = attention_of(policy.core)
    if attention not in TAKES_MASKS:
        return Sharing(
            False,
            f"its attention is {attention!r}, which takes no mask of all pairs of tokens; "
            "--attention sdpa and flex do",
        )
    layers = special_layers(policy.core)
    if layers is not None and window(policy.core) is None:
        return Sharing(False, f"it has layers that need a mask of their own ({layers})")
    if not logits_are_the_heads(policy.core, groups[0].response_ids[0].to(policy.device)):
        return Sharing(False, "its logits are more than its head's output")
    group = next((g for g in groups if g.images), groups[0])
    try:
        other = next((g for g in groups if g is not group), group)
        return _probe(policy, group, other, together)
    except (AttributeError, TypeError) as error:
        if window(policy.core) is None and attention != FLEX:
            raise
        kind = "of blocks" if attention == FLEX else "for each kind of layer"
        return Sharing(False, f"its forward takes no mask {kind} ({error})")


@torch.no_grad()
def _probe(policy: Policy, group: Group, other: Group, together: bool) -> Sharing:
    seeing = dataclasses.replace(policy, vision=None)
    with exact(seeing, together) as precise:
        if precise is None:
            return _by_noise(seeing, group, other)
        verdict = _exactly(precise, group)
        if verdict.allowed and precise is not seeing:
            return _near_the_copy(seeing, precise, group)
        return verdict


def _exactly(policy: Policy, group: Group) -> Sharing:
    two_row = response_logps(policy.model, row_batch(policy, [group])).sums
    shared = response_logps(policy.model, shared_batch(policy, [group])).sums
    difference = float((shared - two_row).abs().max())
    limit = 64 * rounding_of_logps(
        two_row, working_dtype(policy), max(map(len, group.response_ids))
    )
    if not difference <= limit:
        return Sharing(False, f"shared and two-row log-probs differ by {difference:.2g}")
    # Not the last one, which may be the first again under another image.
    if group.response_ids[0].equal(group.response_ids[min(1, len(group.response_ids) - 1)]):
        return Sharing(True, "equal to the two-row path on a probe row")
    places = [1, *range(1, len(group.response_ids))]
    perturbed = take_responses(group, places)
    # The first one's images stay.
    perturbed = dataclasses.replace(perturbed, response_images=group.response_images)
    changed = shared_batch(policy, [perturbed])
    moved = float((response_logps(policy.model, changed).sums - shared)[0, 1:].abs().max())
    if not moved <= limit:
        return Sharing(False, f"a response's log-probs move by {moved:.2g} with its neighbor's")
    return Sharing(True, "equal to the two-row path on a probe row")


def _near_the_copy(policy: Policy, precise: Policy, group: Group) -> Sharing:
    """Once the copy shares exactly: half precision itself must not add more than it always does."""
    true = _states(precise, row_batch(precise, [group])).to(policy.device)
    two_row = rms(_states(policy, row_batch(policy, [group])) - true)
    shared = rms(_states(policy, shared_batch(policy, [group])) - true)
    if not shared <= HALF_MARGIN * two_row:
        reason = f"in {dtype_name(policy)} its states are {shared:.2g} from float32's, those of two"
        return Sharing(False, f"{reason} rows {two_row:.2g}")
    return Sharing(True, "equal to the two-row path on a probe row, as a float32 copy")


def _by_noise(policy: Policy, group: Group, other: Group) -> Sharing:
    """Where no float32 copy fits: against the two-row path's own rounding."""
    alone = row_batch(policy, [group])
    two_row = _states(policy, alone)
    padded = _states(policy, row_batch(policy, [group, other]))[: len(two_row)]
    with other_kernel():
        rounded = _states(policy, alone)
    noise = (padded - two_row, rounded - two_row)
    batch = shared_batch(policy, [group])
    times = excess(_states(policy, batch) - two_row, noise)
    if not times <= HALF_MARGIN:
        return Sharing(
            False,
            f"shared and two-row states differ by {times:.2g} times what rounding does (limit "
            f"{HALF_MARGIN:g})",
        )
    broken: dict[str, Batch] = {
        "shifted positions": shifted(batch),
        "shifted positions of two tokens": shifted_at_the_end(batch),
    }
    if len(group.response_ids) > 1:
        broken["responses that see each other"] = leaking(batch)
    if group.images:
        broken["images upside down"] = shared_batch(policy, [with_images_turned(group)])
    for fault, one in broken.items():
        if not excess(_states(policy, one) - two_row, noise) > HALF_MARGIN:
            return Sharing(False, blind(policy, fault))
    return Sharing(True, "equal to the two-row path on a probe row, within rounding")


def _states(policy: Policy, batch: Batch) -> Tensor:
    """Last hidden states that predict the responses' tokens. Shape: (tokens, hidden), in order."""
    return predicting_states(policy.model, batch).float()
