"""The five proofs that a run makes of itself before it trains.

Silent corruption is what goes wrong most: image tokens cut away, another row's pixels, padding
sides crossed, positions dropped. The loss falls all the same and nothing is raised. Each proof is
a number with a limit, and the limit is measured: the noise floor is how much the model's own
processor and forward differ between a row alone and the same row in a padded batch.

Rounding in half precision is as large as many faults, so a model in half precision is proven as a
float32 copy, and then has to be as near to that copy by our path as by its own. Where no copy fits
memory, limits are measured in half precision, and a proof says where it can't tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from veridical.checks.controls import with_gray_images
from veridical.models.batch import Batch
from veridical.models.measures import ResponseMeasure
from veridical.models.placeholders import placeholder_counts
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime.progress import counted

ProofName = Literal["start", "image_matters", "placeholders", "batch_invariance", "path_parity"]
Layout = Callable[[Policy, Sequence[Group]], Batch]

MARGIN = 10.0
"""How many noise floors still count as equal, or must be passed to count as different."""


@dataclass(frozen=True)
class Proof:
    """One proof's figures.

    Attributes:
        name: which proof.
        passed: whether it holds (True where it does not apply).
        applicable: False e.g. for `image_matters` on text-only rows.
        value: what was measured.
        limit: what it is compared with.
        unit: of value and limit.
        detail: in words.
        blind: whether the experiment can't tell, since broken batches would pass too; `passed` is
            True then, and says nothing.
    """

    name: ProofName
    passed: bool
    applicable: bool
    value: float
    limit: float
    unit: str
    detail: str
    blind: bool = False


def prove_placeholders(policy: Policy, batch: Batch) -> Proof:
    """Image placeholders = image features, row by row."""
    placeholders, features = placeholder_counts(policy, batch)
    off = max(abs(p - f) for p, f in zip(placeholders, features, strict=True))
    return Proof(
        "placeholders",
        off == 0,
        sum(features) + sum(placeholders) > 0,
        float(off),
        0.0,
        "tokens",
        f"placeholders {_few(placeholders)}, features {_few(features)}",
    )


def prove_image_matters(
    policy: Policy,
    groups: Sequence[Group],
    lay_out: Layout,
    alone: Tensor,
    floor: float,
    measure: ResponseMeasure,
) -> Proof:
    """With another image the numbers move by far more than noise."""
    with_images = [i for i, group in enumerate(groups) if group.images]
    limit = MARGIN * floor
    if not with_images:
        detail = "no row has an image"
        return Proof("image_matters", True, False, 0.0, limit, measure.unit, detail)
    gray = [with_gray_images(groups[i]) for i in with_images]
    other = torch.cat([measure.ours(lay_out(policy, [group])) for group in gray])
    moved = (other - alone[with_images]).abs().amax(-1)
    median = float(moved.median())
    detail = (
        f"median over {counted(len(with_images), 'rows')}, with the image replaced by plain gray"
    )
    return Proof("image_matters", median > limit, True, median, limit, measure.unit, detail)


def prove_batch_invariance(
    ours: Tensor, alone: Tensor, floor: float, measure: ResponseMeasure
) -> Proof:
    """A group alone = the group among others."""
    value = float((alone - ours).abs().max())
    detail = f"{counted(len(ours), 'rows')} alone against together"
    limit = MARGIN * floor
    return Proof("batch_invariance", value <= limit, True, value, limit, measure.unit, detail)


def prove_path_parity(
    groups: Sequence[Group], ours: Tensor, floor: float, measure: ResponseMeasure
) -> Proof:
    """Our path = the stock processor and the stock forward, one row at a time."""
    stock = torch.stack([measure.stock(group) for group in groups])
    value = float((stock - ours).abs().max())
    detail = f"{counted(stock.numel(), 'answers')} against the stock processor and forward"
    limit = MARGIN * floor
    return Proof("path_parity", value <= limit, True, value, limit, measure.unit, detail)


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:8])
    return f"[{shown}{', ...' if len(numbers) > 8 else ''}]"
