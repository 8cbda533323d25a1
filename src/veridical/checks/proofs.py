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
from veridical.models.batching import Batch
from veridical.models.measures import ResponseMeasure
from veridical.models.placeholders import placeholder_counts
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted

ProofName = Literal["start", "image_matters", "placeholders", "batch_invariance", "path_parity"]
Layout = Callable[[Policy, Sequence[Group]], Batch]

MARGIN = 10.0
"""How many noise floors still count as equal, or must be passed to count as different."""

ADVICE: dict[str, str] = {
    "start": "The reference is not the policy that training starts from. Declare the right "
    "reference, or give the adapter to start from as --init-adapter so that both get it.",
    "image_matters": "The answers' log-probabilities do not change with the image. Check "
    "that the rows' images are the right ones and that the model is a vision-language model.",
    "placeholders": "The prompt's image placeholders and the image features differ in number. "
    "Use the processor that was saved with this model, and a larger --max-length.",
    "batch_invariance": "A row's numbers depend on the rows beside it. Set --share-prefix false; "
    "if that does not help, use --batch-size 1 or another --dtype.",
    "path_parity": "Our numbers differ from those of the stock processor and forward. "
    "Set --share-prefix false; if that does not help, this model is not supported yet.",
}


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


def print_proofs(proofs: Sequence[Proof]) -> None:
    """A line for each."""
    for proof in proofs:
        print(f"  proof {proof.name}: {verdict(proof)} ({proof.detail})")
    if any(proof.blind for proof in proofs):
        print(
            "  A proof that can't tell stops no run: rounding hides what it looks for. A float32 "
            "copy could tell, where memory allows; --share-prefix false is the safe layout."
        )


def verdict(proof: Proof) -> str:
    """What a proof's figures say, in a few words."""
    if not proof.applicable:
        return "does not apply"
    word = "CAN'T TELL" if proof.blind else "holds" if proof.passed else "FAILS"
    return f"{word}: {figures(proof.name, proof.value, proof.limit, proof.unit)}"


def figures(name: str, value: float, limit: float, unit: str) -> str:
    """What was measured, and on which side of the limit it has to be."""
    return f"{value:.2g} {unit}, has to be {bound(name)} {limit:.2g}"


def bound(name: str) -> str:
    """The side of a proof's limit on which its value has to be."""
    return "above" if name == "image_matters" else "at most"


def require(proofs: Sequence[Proof]) -> None:
    """Stop the run if a proof fails.

    Raises:
        UserError: names the first proof that fails, its figures and what to change.
    """
    failed = next((proof for proof in proofs if not proof.passed), None)
    if failed is not None:
        raise UserError(
            f"The proof '{failed.name}' fails: "
            f"{figures(failed.name, failed.value, failed.limit, failed.unit)} ({failed.detail}).\n"
            f"{ADVICE[failed.name]}"
        )
