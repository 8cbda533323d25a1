"""What rounding a saved or merged model costs, measured on the rows of the proofs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from veridical.checks.controls import rms
from veridical.models.adapters import merge_adapter
from veridical.models.load import load_base
from veridical.models.logprobs import compute_logps
from veridical.models.merge_cost import TOO_MUCH
from veridical.models.policy import Policy, adapters_off
from veridical.models.precision import exact
from veridical.models.rendering import Group
from veridical.runtime import processes
from veridical.runtime.files import write_json
from veridical.runtime.progress import counted
from veridical.runtime.runs import Run
from veridical.train.options import Training

Score = Callable[[Policy], Tensor]
"""The numbers of a few rows' answers, such as their log-probabilities."""

ROUNDING = "rounding.json"
NOT_MEASURED = (
    "What rounding cost of {} is not measured, only estimated from its weights: there is no memory "
    "for a float32 copy of the model, or its attention computes in half precision alone. "
    "--dtype float32 rounds nothing."
)


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
    print(describe(after_training(dtype, (out / "adapter").is_dir()), before.trained.numel(),
                   lost, moved, measure.unit))  # fmt: skip


@torch.no_grad()
def tell_merged(
    run: Run, option: str, policy: Policy, groups: Sequence[Group], share_prefix: bool
) -> None:
    """Compare a model that adapters were merged into with the same before rounding, and print it.

    Nothing is done where nothing was rounded. Where no float32 copy can be had, it says so. The
    first process measures.

    Args:
        run: keeps the figures in `run.json`.
        option: that names the model.
        policy: as it was loaded, or with new adapters that change nothing yet.
        groups: a few rows.
        share_prefix: the layout.
    """
    if not policy.merges or not processes.is_first():
        return
    adapters = [merge.adapter for merge in policy.merges]
    measure = Measure(lambda some: compute_logps(some, groups, share_prefix, len(groups)))
    scores = _merged_scores(policy, adapters, measure)
    if scores is None:
        print(NOT_MEASURED.format(" and ".join(adapters)))
        return
    rounded, before, whole = scores
    lost, moved = rms(rounded - whole), rms(whole - before)
    dtype = policy.merges[-1].dtype
    print(describe(after_merging(adapters, dtype), whole.numel(), lost, moved))
    found = {"dtype": dtype, "answers": whole.numel(), "lost": lost, "moved": moved}
    known = run.record.get("merged", {})
    run.note(merged={**known, option: {"adapters": adapters, **found, "unit": measure.unit}})


def _merged_scores(
    policy: Policy, adapters: Sequence[str], measure: Measure
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Of the merged and rounded model, of its base, and of the base with adapters unrounded.

    All are computed in float32; None where no float32 copy can be had.
    """
    with exact(policy) as precise:
        if precise is None:
            return None
        rounded = measure.score(precise)
    base = load_base(policy)
    if base is None:
        return None
    with exact(base) as wide:
        if wide is None:
            return None
        before = measure.score(wide)
        for adapter in adapters:
            wide = merge_adapter(wide, Path(adapter))
        return rounded, before, measure.score(wide)


@dataclasses.dataclass(frozen=True)
class Words:
    """How the cost of rounding is said.

    Attributes:
        rounded: what was rounded, and to what.
        whole: whose scores are right.
        cause: what changed the scores.
        advice: what to set where too much is lost.
    """

    rounded: str
    whole: str
    cause: str
    advice: str


def after_training(dtype: str, adapter: bool) -> Words:
    """For the model that a run saves.

    Args:
        dtype: of the saved weights.
        adapter: whether the adapter was saved too.
    """
    other = ", or load the adapter with --dtype float32" if adapter else ""
    return Words(
        f"model/ is rounded to {dtype}",
        "the trained policy's",
        "training",
        "To keep what was trained, go on with --resume true --save-dtype float32 (nothing is "
        f"trained again){other}.",
    )


def after_merging(adapters: Sequence[str], dtype: str) -> Words:
    """For a model that adapters were merged into when it was loaded.

    Args:
        adapters: their folders.
        dtype: of the weights.
    """
    return Words(
        f"{' and '.join(adapters)} merged is rounded to {dtype}",
        "those without rounding",
        "the adapter" if len(adapters) == 1 else "the adapters",
        "Set --dtype float32 to keep the whole update.",
    )


def describe(
    words: Words, answers: int, lost: float, moved: float | None, unit: str = "nats"
) -> str:
    """What rounding cost, in a line or two.

    Args:
        words: for what was rounded.
        answers: how many were scored.
        lost: root mean square between the rounded model and the one before rounding.
        moved: the same between the latter and the model before any change, where that is known.
        unit: of both.
    """
    line = (
        f"{words.rounded}: the scores of {counted(answers, 'answers')} differ from "
        f"{words.whole} by {lost:.2g} {unit} (root mean square)"
    )
    if moved is None:
        return f"{line}. How much {words.cause} changed them is not known here."
    part = lost / moved if moved else math.inf
    if lost <= TOO_MUCH * moved:
        share = f" ({part:.1%} of that is lost)" if moved else ""
        return f"{line}, where {words.cause} changed them by {moved:.2g} {unit}{share}."
    if not moved:
        return f"{line}, and {words.cause} changed none of them."
    return (
        f"{line}, and {words.cause} changed them by only {moved:.2g} {unit}.\n{part:.0%} of that "
        f"is lost, which is more than {TOO_MUCH:.0%}. {words.advice}"
    )
