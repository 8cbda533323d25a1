"""What rounding a saved model to half precision costs, measured on the rows of the proofs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from veridical.checks.controls import rms
from veridical.models.policy import Policy, adapters_off
from veridical.models.precision import exact
from veridical.models.rendering import Group
from veridical.runtime.files import write_json
from veridical.runtime.progress import counted
from veridical.train.loop.reference import compute_logps
from veridical.train.options import Training

Score = Callable[[Policy], Tensor]
"""The numbers of a few rows' answers, such as their log-probabilities."""

TOO_MUCH = 0.1
"""Share of what training changed from which on rounding is too much (our choice)."""
ROUNDING = "rounding.json"


@dataclasses.dataclass(frozen=True)
class Scored:
    """A trained policy's numbers before it is merged and rounded.

    Attributes:
        start: before training; None where that is not known. Shape: (rows, k).
        trained: Shape: (rows, k).
        in_float32: whether weights alone differ later, as both are computed in float32.
    """

    start: Tensor | None
    trained: Tensor
    in_float32: bool


@dataclasses.dataclass(frozen=True)
class Measure:
    """What a saved model is compared by.

    Attributes:
        score: the numbers.
        unit: of these.
        start: before training, where they are not those of the trained policy with its adapters
            off. Shape: (rows, k).
    """

    score: Score
    unit: str = "nats"
    start: Tensor | None = None


def measure_logps(
    start: Policy, groups: Sequence[Group], share_prefix: bool, training: Training
) -> Measure:
    """Log-probabilities of these rows' answers, in nats.

    Args:
        start: the policy before training; read here where no adapter can be turned off later.
        groups: the rows.
        share_prefix: the layout.
        training: the run's options.
    """

    def score(policy: Policy) -> Tensor:
        return compute_logps(policy, groups, share_prefix, len(groups))

    if training.tuning != "full" or training.save_dtype not in ("bfloat16", "float16"):
        return Measure(score)
    start.model.eval()
    with torch.no_grad(), exact(start) as precise:
        return Measure(score, start=score(start if precise is None else precise))


@torch.no_grad()
def score_before(policy: Policy, measure: Measure) -> Scored:
    """The numbers of a policy that is about to be saved, in float32 where a copy fits memory."""
    with exact(policy) as precise:
        chosen = policy if precise is None else precise
        trained, start = measure.score(chosen), measure.start
        if start is None and isinstance(chosen.model, PeftModel):
            with adapters_off(chosen.model):
                start = measure.score(chosen)
    return Scored(start, trained, precise is not None)


@torch.no_grad()
def tell_rounding(before: Scored, saved: Policy, dtype: str, measure: Measure, out: Path) -> None:
    """Compare a saved model with the policy that was trained, print it and write `rounding.json`.

    Args:
        before: of the trained policy.
        saved: as it was written.
        dtype: its name.
        measure: the same as before.
        out: the run's folder.
    """
    with exact(saved) as precise:
        same_way = saved if precise is None or not before.in_float32 else precise
        lost = rms(measure.score(same_way) - before.trained)
    moved = None if before.start is None else rms(before.trained - before.start)
    write_json(
        out / ROUNDING,
        {
            "dtype": dtype, "answers": before.trained.numel(), "lost": lost, "moved": moved,
            "unit": measure.unit,
            "computed_in_float32": before.in_float32 and precise is not None,
        },
    )  # fmt: skip
    adapter = (out / "adapter").is_dir()
    print(describe(dtype, before.trained.numel(), lost, moved, measure.unit, adapter))


def describe(
    dtype: str,
    answers: int,
    lost: float,
    moved: float | None,
    unit: str = "nats",
    adapter: bool = True,
) -> str:
    """What rounding cost, in a line or two.

    Args:
        dtype: of the saved weights.
        answers: how many were scored.
        lost: root mean square between the saved model and the trained policy.
        moved: the same between the trained policy and its start, where that is known.
        unit: of both.
        adapter: whether the adapter was saved too.
    """
    line = (
        f"model/ is rounded to {dtype}: the scores of {counted(answers, 'answers')} differ from "
        f"the trained policy's by {lost:.2g} {unit} (root mean square)"
    )
    if moved is None:
        return f"{line}. How much training changed them is not known here."
    if lost <= TOO_MUCH * moved:
        return f"{line}, where training changed them by {moved:.2g} {unit}."
    if not moved:
        return f"{line}, and training changed none of them."
    other = ", or load the adapter with --dtype float32" if adapter else ""
    return (
        f"{line}, and training changed them by only {moved:.2g} {unit}.\nThat is more than "
        f"{TOO_MUCH:.0%} of it. To keep what was trained, go on with --resume true --save-dtype "
        f"float32 (nothing is trained again){other}."
    )
