"""What a training saves: the adapter, and the model, merged and rounded as asked."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel

from veridical.models.checkpoint_rest import keep_skipped
from veridical.models.load import load_policy, starts_from_adapter
from veridical.models.merging import merge_adapters, round_weights
from veridical.models.model_argument import Model, name_of
from veridical.models.policy import Policy, in_four_bits
from veridical.models.precision import HALF, working_dtype
from veridical.models.tuning import prepare_training
from veridical.runtime import processes
from veridical.runtime.files import writing
from veridical.runtime.fingerprint import weight_files
from veridical.runtime.options import DtypeName
from veridical.runtime.run_folders import remove_written
from veridical.train.loop.rounding import ROUNDING, Measure, score_before, tell_rounding
from veridical.train.loop.trained import whole_policy
from veridical.train.options import SaveDtype, Training

SAVED = ("model", "adapter", ROUNDING)
"""What a training saves at its end, beside its record and card."""
OLD_MODEL = (
    "{} was saved by an earlier attempt and is removed: only the adapter is saved now. Set "
    "--save-merged true to have it written again."
)


def save_result(
    policy: Policy, model: Model, training: Training, out: Path, measure: Measure | None = None
) -> list[str]:
    """Write the trained weights; the first name returned is what to load.

    LoRA writes `adapter/` and, if asked for, the merged `model/`; full tuning writes `model/`.
    An adapter trained on top of a merged one does not fit the base by itself, so then only the
    merged model is written. Of a base in four bits only the adapter is: merged into it, most of
    what was learned would be rounded away, and `load_policy` merges it into the full base.
    What rounding `model/` to half precision costs is measured and printed.
    The first process writes; all of them have to take part.

    Args:
        policy: as it was trained; adapters are merged in place.
        model: what was loaded to start from.
        training: the run's options.
        out: the run's folder.
        measure: by which the saved model is compared with the trained one.
    """
    name = name_of(model)
    dtype = typing.cast(DtypeName, str(working_dtype(policy)).removeprefix("torch."))

    def rebuild() -> Policy:
        start = load_policy(name, dtype, "cpu", training.init_adapter, template=training.template)
        return prepare_training(start, training.trained)

    policy = whole_policy(policy, rebuild)
    if not processes.is_first():
        return []
    was_rounded = (out / ROUNDING).exists()
    from_adapter = starts_from_adapter(name, training.init_adapter)
    with replacing_saved(out) as fresh:
        written = []
        if isinstance(policy.model, PeftModel) and not from_adapter:
            policy.model.save_pretrained(str(fresh / "adapter"))
            policy.processor.save_pretrained(str(fresh / "adapter"))
            written.append("adapter")
        adapter_alone = in_four_bits(policy) or not (training.save_merged or from_adapter)
        if isinstance(policy.model, PeftModel) and adapter_alone:
            if (out / "model").exists():
                print(OLD_MODEL.format(out / "model"))
            return written
        _save_model(policy, training.save_dtype, fresh, measure)
        said = keep_skipped(policy.skipped, weight_files(name), fresh / "model")
        if said:
            print(said)
    if was_rounded and not (out / ROUNDING).exists():
        kept = dtype if training.save_dtype == "auto" else training.save_dtype
        print(
            f"model/ is in {kept} now and loses nothing by rounding; {ROUNDING}, which told of "
            "the model saved before, is gone."
        )
    return ["model", *written]


@contextlib.contextmanager
def replacing_saved(out: Path) -> Iterator[Path]:
    """Replace what an earlier attempt saved, file by file, once what is saved now is whole.

    Args:
        out: the run's folder.

    Yields:
        An empty folder in it to save to; what is there at the end is moved into the run's folder.

    Raises:
        UserError: the disk is full. What was saved before is still there.
    """
    earlier = [name for name in SAVED if (out / name).exists()]
    advice = "Make room, and go on with --resume true: the checkpoints are whole."
    if earlier:
        advice += f" {' and '.join(earlier)} in it are still those saved before."
    fresh = out / ".saving"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with writing(out, advice):
            fresh.mkdir(parents=True)
            yield fresh
        for name in earlier:
            path = out / name
            remove_written(out, name) if path.is_dir() else path.unlink()
        # What a user put into `model/` is still there, so files are moved, not folders.
        for path in fresh.rglob("*"):
            if path.is_file():
                place = out / path.relative_to(fresh)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _save_model(policy: Policy, save_dtype: SaveDtype, out: Path, measure: Measure | None) -> None:
    """Merge and round in the policy itself, write `model/`, and measure what that cost."""
    own = working_dtype(policy)
    dtype: torch.dtype = own if save_dtype == "auto" else getattr(torch, save_dtype)
    rounds = dtype in HALF and (isinstance(policy.model, PeftModel) or dtype != own)
    before = score_before(policy, measure) if measure is not None and rounds else None
    if dtype.itemsize > own.itemsize:
        policy.model.to("cpu")  # its memory holds more
    if isinstance(policy.model, PeftModel):
        merged = merge_adapters(policy.model, None if dtype == own else dtype)
    else:
        merged = round_weights(policy.model, dtype)
    merged.save_pretrained(str(out / "model"))
    policy.processor.save_pretrained(str(out / "model"))
    if before is not None and measure is not None:
        saved = dataclasses.replace(policy, model=merged)
        tell_rounding(before, saved, str(dtype).removeprefix("torch."), measure, out)
