"""Training on kept image features: what has to be frozen, and that nothing changes by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from veridical.checks.probes import kept_features_refusal
from veridical.checks.proofs import MARGIN
from veridical.models.batching import collate
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.vision_cache import VisionCache, take_features
from veridical.runtime.errors import UserError
from veridical.train.options import Training


def keep_features(start: Policy, training: Training) -> VisionCache | None:
    """The cache of features for a policy that is about to be prepared for training, if asked for.

    Raises:
        UserError: its features can't be kept.
    """
    if not training.vision_cache:
        return None
    return VisionCache(start, training.open_cache(), training.train_projector)


@torch.no_grad()
def with_features(
    policy: Policy,
    features: VisionCache | None,
    groups: Sequence[Group],
    share_prefix: bool,
    floor: float,
    reference: Policy | None = None,
) -> Policy:
    """The policy that takes features in the place of pictures, once a few rows prove it equal.

    Args:
        policy: as it will be trained; the proofs have run on it.
        features: from `keep_features`; without them nothing changes.
        groups: a few rows.
        share_prefix: the layout.
        floor: the noise floor, in nats.
        reference: another model that reads the same batches.

    Raises:
        UserError: features are not those of the pictures, or log-probs differ by more than ten
            noise floors.
    """
    if features is None:
        return policy
    kept = dataclasses.replace(policy, vision=features)
    policy.model.eval()
    images, texts = [group.images for group in groups], [group.prompt_text for group in groups]
    reason = kept_features_refusal(kept, images, texts)
    if reason is not None:
        raise UserError(f"{reason}. Leave --vision-cache off for {policy.name}.")
    ours, stock = (
        response_logps(policy.model, collate(each, groups, share_prefix)).sums
        for each in (kept, policy)
    )
    moved = float((ours - stock).abs().max())
    if not moved <= MARGIN * floor:
        raise UserError(
            f"With kept image features the log-probs differ by {moved:.3g} nats (limit "
            f"{MARGIN * floor:.3g}). Leave --vision-cache off for {policy.name}."
        )
    print(f"Image features are kept: log-probs differ by {moved:.2g} (limit {MARGIN * floor:.2g}).")
    take_features((reference or policy).core)
    return kept
