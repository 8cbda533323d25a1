"""The proofs of a run, in float32 where that fits memory, else by measured noise and controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from veridical.checks.controls import (
    other_kernel,
    rms,
    shifted,
    with_gray_images,
    with_images_turned,
)
from veridical.checks.proof_texts import figures
from veridical.checks.proofs import (
    Layout,
    Proof,
    ProofName,
    prove_batch_invariance,
    prove_image_matters,
    prove_path_parity,
    prove_placeholders,
)
from veridical.models.batching import row_batch
from veridical.models.measures import MeasureOf, ResponseMeasure, logps_measure
from veridical.models.policy import Policy
from veridical.models.precision import dtype_name, exact
from veridical.models.rendering import Group
from veridical.runtime.progress import counted

PRECISION_MARGIN = 5.0
"""How much farther from float32 than the model's own forward our path may be in half precision (our
choice: the root mean square of eight numbers varies by chance)."""
CLEARLY = 2.0
"""How many limits a broken batch has to differ by before a proof that holds says something (our
choice): one that is barely rejected is not evidence that a smaller fault would be."""
SIGNIFICANT = 0.01
"""Below this chance that rounding explains it, an image matters (our choice)."""


@torch.no_grad()
def noise_floor(
    policy: Policy, groups: Sequence[Group], measure: MeasureOf = logps_measure
) -> float:
    """How much of a difference between two honest ways of computing these rows is noise.

    All processes have to take part.

    It is what the stock path differs between a row alone and in a padded batch, and never below
    what rounding alone may do: in float32 a few units in the last place; in half precision how far
    (root mean square) these rows are from a float32 copy's, or where no copy fits, from those by
    another implementation of attention.
    """
    with evaluating(policy), exact(policy, together=True) as precise:
        return _noise_floor(policy, precise, groups, measure)


def _noise_floor(
    policy: Policy, precise: Policy | None, groups: Sequence[Group], measure: MeasureOf
) -> float:
    own = measure(policy)
    batch = row_batch(policy, groups)
    together = own.ours(batch)
    alone = torch.cat([own.ours(row_batch(policy, [group])) for group in groups])
    difference = float((together - alone).abs().max())
    if precise is policy:
        return max(difference, own.rounding(groups))
    if precise is None:
        with other_kernel():
            return max(difference, rms(own.ours(batch) - together))
    true = measure(precise).ours(row_batch(precise, groups))
    return max(difference, rms(together - true.to(together.device)))


@contextmanager
def evaluating(policy: Policy) -> Iterator[None]:
    """Evaluation mode, for a while."""
    training = policy.model.training
    policy.model.eval()
    try:
        yield
    finally:
        policy.model.train(training)


@torch.no_grad()
def prove(
    policy: Policy, groups: Sequence[Group], lay_out: Layout, measure: MeasureOf = logps_measure
) -> list[Proof]:
    """Every proof that needs no reference, in evaluation mode; all processes have to take part.

    Args:
        policy: the model as it will be trained.
        groups: a few rows (4 are enough) with the same number of responses.
        lay_out: how training will lay them out, for the policy or its float32 copy.
        measure: what is looked at; log-probs if not given.
    """
    with evaluating(policy), exact(policy, together=True) as precise:
        if precise is None:
            return _prove_by_noise(policy, groups, lay_out, measure(policy))
        proofs = _prove_exactly(precise, groups, lay_out, measure(precise))
        if precise is policy:
            return proofs
        native = _prove_precision(policy, precise, groups, lay_out, measure)
        return [_both(proof, native) if proof.name == "path_parity" else proof for proof in proofs]


def _prove_exactly(
    policy: Policy, groups: Sequence[Group], lay_out: Layout, measure: ResponseMeasure
) -> list[Proof]:
    floor = _noise_floor(policy, policy, groups, lambda _: measure)
    batch = lay_out(policy, groups)
    ours = measure.ours(batch)
    alone = torch.cat([measure.ours(lay_out(policy, [group])) for group in groups])
    return [
        prove_placeholders(policy, batch),
        prove_image_matters(policy, groups, lay_out, alone, floor, measure),
        prove_batch_invariance(ours, alone, floor, measure),
        prove_path_parity(groups, ours, floor, measure),
    ]


def _prove_precision(
    policy: Policy,
    precise: Policy,
    groups: Sequence[Group],
    lay_out: Layout,
    measure: MeasureOf,
) -> Proof:
    """In half precision our path is about as near to float32 as the model's own forward is."""
    own, true = measure(policy), measure(precise)
    expected = torch.stack([true.stock(group) for group in groups]).to(policy.device)
    stock = torch.stack([own.stock(group) for group in groups])
    rows = own.ours(row_batch(policy, groups))
    limit = PRECISION_MARGIN * max(rms(stock - expected), rms(rows - expected))
    value = rms(own.ours(lay_out(policy, groups)) - expected)
    detail = f"distance of {dtype_name(policy)} from float32, root mean square"
    return Proof("path_parity", value <= limit, True, value, limit, own.unit, detail)


def _both(exactly: Proof, native: Proof) -> Proof:
    if exactly.passed and not native.passed:
        return native
    measured = figures(native.name, native.value, native.limit, native.unit)
    detail = f"{exactly.detail}; {native.detail}: {measured}"
    return dataclasses.replace(exactly, detail=detail)


def _prove_by_noise(
    policy: Policy, groups: Sequence[Group], lay_out: Layout, measure: ResponseMeasure
) -> list[Proof]:
    """Where no float32 copy fits: against the stock path's own rounding, with controls.

    Broken batches have to differ by `CLEARLY` times the limit: response positions one too high, and
    gray images. Where one does not, a proof that holds says little, and is called blind. No answer
    may differ by more than `PRECISION_MARGIN` times what rounding does to the worst one.
    """
    stock = torch.stack([measure.stock(group) for group in groups])
    together = row_batch(policy, groups)
    rows = measure.ours(together)
    with other_kernel():
        rounded = measure.ours(together)
    floor = max(rms(rows - stock), rms(rounded - stock))
    batch = lay_out(policy, groups)
    ours = measure.ours(batch)
    alone = torch.cat([measure.ours(lay_out(policy, [group])) for group in groups])
    seen = [i for i, group in enumerate(groups) if group.images]
    turned = _changed(policy, groups, seen, lay_out, measure, with_images_turned)
    gray = _changed(policy, groups, seen, lay_out, measure, with_gray_images)
    controls = [rms(measure.ours(shifted(batch)) - stock)]
    controls += [rms(gray - stock[seen])] if seen else []
    limit = PRECISION_MARGIN * floor
    worst = PRECISION_MARGIN * max(_largest(rows - stock), _largest(rounded - stock))
    found: list[tuple[ProofName, Tensor, str]] = [
        (
            "batch_invariance",
            alone - ours,
            f"{counted(len(groups), 'rows')} alone against together",
        ),
        (
            "path_parity",
            ours - stock,
            f"{counted(stock.numel(), 'answers')} against the stock forward",
        ),
    ]
    moved = torch.cat([gray - alone[seen], turned - alone[seen]]).abs().flatten()
    noise = torch.cat([(rounded - stock)[seen], (rows - stock)[seen]]).abs().flatten()
    return [
        prove_placeholders(policy, batch),
        _image_matters_by_rank(moved, noise, measure.unit),
        *(_by_controls(*one, (limit, worst), min(controls), measure.unit) for one in found),
    ]


def _changed(
    policy: Policy,
    groups: Sequence[Group],
    seen: Sequence[int],
    lay_out: Layout,
    measure: ResponseMeasure,
    change: Callable[[Group], Group],
) -> Tensor:
    """The numbers of rows with other images. Shape: (rows with images, k)."""
    changed = [measure.ours(lay_out(policy, [change(groups[i])])) for i in seen]
    return torch.cat(changed) if changed else torch.zeros(0, len(groups[0].response_ids))


def _by_controls(
    name: ProofName,
    difference: Tensor,
    detail: str,
    limits: tuple[float, float],
    control: float,
    unit: str,
) -> Proof:
    """One proof; `limits` are those of the root mean square and of the worst answer."""
    value, (limit, of_worst) = rms(difference), limits
    detail += f", root mean square; a broken batch differs by {control:.2g}"
    if value <= limit and not _largest(difference) <= of_worst:
        return Proof(
            name, False, True, _largest(difference), of_worst, unit, detail + "; the worst answer"
        )
    blind = value <= limit and not control > CLEARLY * limit
    return Proof(name, value <= limit, True, value, limit, unit, detail, blind)


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())


def _image_matters_by_rank(moved: Tensor, noise: Tensor, unit: str) -> Proof:
    """Numbers move more with other images than by rounding, in a paired test over all answers.

    Short answers have few tokens, so that any one of them may move less than rounding does.

    Args:
        moved: by how much each answer's number moves with gray and with turned images.
        noise: by how much the same answers' numbers move with rounding.
        unit: of both.
    """
    if not len(moved):
        return Proof("image_matters", True, False, 0.0, 0.0, unit, "no row has an image")
    value, limit = rms(moved), rms(noise)
    p = 1.0
    if value > limit:
        from scipy.stats import wilcoxon  # a second at every start, else

        p = float(wilcoxon((moved - noise).cpu().double().numpy(), alternative="greater").pvalue)
    blind = value > limit and not p < SIGNIFICANT
    tried = counted(len(moved), "answers")
    detail = f"{tried} with gray and turned images against rounding, p = {p:.2g}"
    return Proof("image_matters", value > limit, True, value, limit, unit, detail, blind)
