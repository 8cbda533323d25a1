"""Reference log-probs: computed once before training and stored, or in the step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from veridical.errors import UserError
from veridical.files import read_json, write_json
from veridical.images import image_bytes_key
from veridical.logprobs import collate, response_logps
from veridical.models import Policy
from veridical.progress import track
from veridical.rendering import Group

SPOT_CHECKS = 2


@torch.no_grad()
def compute_logps(
    policy: Policy, groups: Sequence[Group], share_prefix: bool, batch_size: int, label: str = ""
) -> Tensor:
    """Log-probs of every response, in evaluation mode. Shape: (groups, k), float64 on the CPU."""
    training = policy.model.training
    policy.model.eval()
    starts = range(0, len(groups), batch_size)
    sums = []
    for start in track(starts, label) if label else starts:
        batch = collate(policy, groups[start : start + batch_size], share_prefix)
        sums.append(response_logps(policy.model, batch).sums.double().cpu())
    policy.model.train(training)
    return torch.cat(sums)


def precompute(
    policy: Policy,
    groups: Sequence[Group],
    share_prefix: bool,
    batch_size: int,
    store: Path,
    tolerance: float,
    data_hash: str,
) -> Tensor:
    """The reference's log-probs, from `store` if it holds those of these weights and rows.

    Args:
        policy: the reference.
        groups: every row, held-out ones too.
        share_prefix: the layout; part of the key.
        batch_size: rows at once.
        store: the JSON file they are kept in.
        tolerance: how far a few recomputed rows may be from the stored ones, in nats.
        data_hash: of the file that the rows and their images come from.

    Returns:
        Shape: (groups, k).

    Raises:
        UserError: a log-prob is not finite.
    """
    key = reference_key(policy, groups, share_prefix, data_hash)
    stored = _read(store, key)
    if stored is not None:
        few = list(groups[:SPOT_CHECKS])
        again = compute_logps(policy, few, share_prefix, batch_size)
        if float((again - stored[: len(few)]).abs().max()) <= tolerance:
            return stored
    logps = compute_logps(policy, groups, share_prefix, batch_size, "reference log-probs")
    odd = [group.id for group, row in zip(groups, logps, strict=True) if not row.isfinite().all()]
    if odd:
        raise UserError(
            f"The reference's log-probs of {len(odd)} rows are not finite (first: {odd[0]}). "
            "Set --dtype float32 or bfloat16, and check these rows' answers."
        )
    write_json(store, {"key": key, "ids": [g.id for g in groups], "logps": logps.tolist()})
    return logps


def reference_key(
    policy: Policy, groups: Sequence[Group], share_prefix: bool, data_hash: str
) -> str:
    """Hash of all that the log-probs depend on: weights, dtype, layout, token ids and images."""
    digest = hashlib.sha256(f"{policy.model.dtype}/{share_prefix}/{data_hash}".encode())
    for name, tensor in sorted(policy.core.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    for group in groups:
        digest.update(f"\0{group.id}\0{group.prompt_text}\0".encode())
        for index, ids in enumerate(group.response_ids):
            for image in group.images_of(index):
                digest.update(image_bytes_key(image).encode())
            digest.update(ids.numpy().tobytes() + group.learned_of(index).numpy().tobytes())
    return digest.hexdigest()


def _read(store: Path, key: str) -> Tensor | None:
    if not store.is_file():
        return None
    content = read_json(store)
    if content.get("key") != key:
        return None
    return torch.tensor(content["logps"], dtype=torch.float64)
