"""Checkpoints that can be trusted: sealed by a manifest, and only verified ones are resumed."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_json, write_json

MANIFEST = "manifest.json"


def write_manifest(checkpoint: Path) -> None:
    """Record the SHA-256 of every file of a finished checkpoint."""
    files = {
        path.relative_to(checkpoint).as_posix(): hash_file(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(checkpoint / MANIFEST, files)


def verify(checkpoint: Path) -> str | None:
    """None for a checkpoint that is whole, else what is wrong with it."""
    if not (checkpoint / MANIFEST).exists():
        return "it has no manifest (it was not finished)"
    try:
        files = read_json(checkpoint / MANIFEST)
    except UserError:
        return "its manifest is not readable"
    if not isinstance(files, dict) or not files:
        return "its manifest names no files"
    for name, digest in files.items():
        try:
            found = hash_file(checkpoint / name)
        except (ValueError, UserError):  # missing, no file, or no name that a file can have
            return f"{name[:80]} is missing"
        if found != digest:
            return f"{name} is not what was written"
    return None


def steps_of(checkpoint: Path) -> int:
    """The optimizer steps that a checkpoint was made after."""
    return int(checkpoint.name.split("-")[1])


def newest_verified(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each newer one that is not."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    problems: list[str] = []
    for checkpoint in sorted(found, key=lambda path: -int(path.name.split("-")[1])):
        problem = verify(checkpoint)
        if problem is None:
            return checkpoint, problems
        problems.append(f"{checkpoint.name} is not used: {problem}")
    return None, problems


def newest_finished(folder: Path) -> int:
    """The steps of the newest checkpoint that was written to its end; 0 if there is none.

    Its content is not compared with what was written, which takes long for a large model.
    """
    found = folder.glob(f"checkpoint-*/{MANIFEST}")
    return max((steps_of(path.parent) for path in found), default=0)


def whole_best(checkpoint: Path) -> Path | None:
    """The best checkpoint, if it is whole; else None, and a line that says what is taken instead.

    A checkpoint that is torn cannot be made again without training from before it, so the last
    step's weights, which are in memory, are kept rather than nothing.
    """
    problem = verify(checkpoint)
    if problem is None:
        return checkpoint
    print(
        f"The best checkpoint, {checkpoint.name}, is not used: {problem}. The result is the last "
        "step's weights."
    )
    return None


class LastStep(TrainerCallback):
    """The last step is evaluated and kept too, wherever the evaluations' interval ends."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Ask for both at the last step."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_evaluate or args.eval_strategy != "no"
            control.should_save = True
