"""How long a plan will take and in how much memory, measured by its own steps on a few rows."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from veridical.data.record_files import raw_rows
from veridical.data.record_kinds import Kind
from veridical.data.records import read_records, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.study.commands import LIGHT
from veridical.study.ordering import foretell_order
from veridical.study.plan import OUTPUTS, OptionValue, Plan, Step, lies_in

FEW = 16
"""Rows that steps are tried on (our choice: seconds, and a batch of small models)."""
FEW_IMAGES = 16
"""Images that evaluations are tried on."""
LOOKED_AT = 500
"""Rows among which the few are chosen, the longest among them."""
STEPS = 3
"""Optimizer steps that trainings are tried for; the middle one counts."""
READ = ("data", "samples", "pairs")
"""Options that name the rows that a step works on."""
LIGHT_SECONDS = 5.0
"""What a command takes that loads no model (our choice)."""


class TriedCall(TypedDict):
    """A command to try: its step, its words, the folder that it writes, and whose it reads."""

    name: str
    words: list[str]
    out: str
    needs: list[str]


@dataclass(frozen=True)
class Tried:
    """One step on a few rows.

    Attributes:
        fixed: seconds that do not grow with the rows.
        work: seconds of work on the few rows; of a training, a step's.
        failed: why it could not be tried; "" if it could.
    """

    fixed: float
    work: float
    failed: str = ""


@dataclass(frozen=True)
class Trial:
    """All steps on a few rows.

    Attributes:
        steps: by name.
        start: seconds until a process is ready to work.
        peak: bytes at the most, by what has them: "memory", or a GPU's name.
        seconds: that it took.
        device: what it ran on.
    """

    steps: Mapping[str, Tried]
    start: float
    peak: Mapping[str, int]
    seconds: float
    device: str = ""


def foretell(plan: Plan, steps: Sequence[Step], workers: int) -> list[str]:
    """How long the steps will take, one by one and together, and in how much memory, in lines.

    Args:
        plan: what will be run.
        steps: those that are not done.
        workers: steps at once.
    """
    rows = source_rows(plan)
    with tempfile.TemporaryDirectory(prefix="veridical-") as folder:
        try:
            trial = try_steps(plan, steps, Path(folder), min(FEW, rows))
        except UserError as error:
            return [f"How long it will take could not be measured: {error}"]
    seconds = {step.name: forecast(plan, step, trial, rows) for step in steps}
    known = {name: value for name, value in seconds.items() if value is not None}
    width = max(len(step.name) for step in steps)
    lines = []
    for step in steps:
        value, tried = seconds[step.name], trial.steps.get(step.name)
        failed = tried is not None and tried.failed
        unknown = f"could not be tried: {tried.failed}" if tried and failed else "not measured"
        shown = unknown if value is None else f"about {in_words(value)}"
        lines.append(f"  {step.name:<{width}}  {step.command:<18} {shown}")
    if any(tried.failed for tried in trial.steps.values()):
        lines.append("What could not be tried on these rows may fail on all of them too.")
    _, total = foretell_order(plan, steps, known, workers)
    peak = " and ".join(f"{size / 1e9:.1f} GB of {name}" for name, size in trial.peak.items())
    more = "" if len(known) == len(steps) else " without those"
    lines.append(
        f"Altogether about {in_words(total)}{more} on {trial.device}, with at most about {peak} a "
        f"step; measured on {min(FEW, rows)} of {rows:,} rows in {trial.seconds:.0f} s."
    )
    return lines


def source_rows(plan: Plan) -> int:
    """How many rows the plan starts from."""
    drawn = [step for step in plan.steps if step.command == "world make"]
    source = str(plan.about.get("source", ""))
    for step in drawn:
        if lies_in(source, step.output):
            return int(step.options.get("count", 100))
    path = plan.folder / source
    if not source or not path.is_file():
        return FEW
    total, _ = raw_rows(path)
    return total


def forecast(plan: Plan, step: Step, trial: Trial, rows: int) -> float | None:
    """Seconds that a step will take; None where it could not be measured."""
    if step.command in LIGHT:
        return LIGHT_SECONDS
    tried = trial.steps.get(step.name) or _alike(plan, step, trial)
    if tried is None or tried.failed:
        return None
    whole, few = (rows_of(plan, step, count) for count in (rows, min(FEW, rows)))
    if step.command.startswith("train "):
        a_step = tried.work
        batch = _number(step, "batch_size", 8) * _number(step, "accumulation", 4)
        # What the reference says of each row is computed once: a forward, a third of a step.
        reference = whole * a_step / batch / 3
        return trial.start + tried.fixed + reference + steps_of(step, whole) * a_step
    if step.command == "eval":
        return trial.start + tried.fixed + tried.work * _images(plan, step) / FEW_IMAGES
    return trial.start + tried.fixed + tried.work * whole / few


def rows_of(plan: Plan, step: Step, rows: int) -> int:
    """Rows that a step works on, of so many in DATA: the part that is trained on, or held out."""
    source = next((str(step.options[name]) for name in READ if step.options.get(name)), "")
    other = next((one for one in plan.steps if one != step and lies_in(source, one.output)), None)
    if other is None:
        return rows
    if other.command != "data split":
        return rows_of(plan, other, rows)
    limit = int(_number(other, "held_out_limit", rows))
    held_out = min(max(1, round(_number(other, "held_out", 0.1) * rows)), limit)
    return held_out if Path(source).stem == "held_out" else max(1, rows - held_out)


def steps_of(step: Step, rows: int) -> int:
    """Optimizer steps of a training on about so many rows."""
    if _number(step, "max_steps", -1) > 0:
        return int(_number(step, "max_steps", -1))
    batch = _number(step, "batch_size", 8) * _number(step, "accumulation", 4)
    epochs = _number(step, "epochs", 3.0 if step.command == "train dpo" else 1.0)
    return max(1, math.ceil(rows / batch * epochs))


def _number(step: Step, name: str, default: float) -> float:
    value = step.options.get(name, default)
    return float(value) if isinstance(value, int | float | str) else default


def _images(plan: Plan, step: Step) -> int:
    """How many images an evaluation asks about."""
    if step.options.get("limit"):
        return int(step.options["limit"])
    drawn = [one for one in plan.steps if one.command == "world make"]
    images = str(step.options.get("images", ""))
    for one in drawn:
        if lies_in(images, one.output):
            return int(one.options.get("count", 100))
    folder = plan.folder / images
    return sum(1 for _ in folder.iterdir()) if images and folder.is_dir() else FEW_IMAGES


def _alike(plan: Plan, step: Step, trial: Trial) -> Tried | None:
    """Another evaluation by the same command: of the model before, where this one's is to come."""
    for other in plan.steps:
        if other.command == step.command and other.name in trial.steps:
            return trial.steps[other.name]
    return None


def in_words(seconds: float) -> str:
    """A duration as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def try_steps(plan: Plan, steps: Sequence[Step], folder: Path, few: int) -> Trial:
    """Run steps on a few rows, one after another in one process, and measure them.

    What only trained models can be tried on is left out.

    Raises:
        UserError: the process failed.
    """
    source = str(plan.about.get("source", ""))
    drawn = any(lies_in(source, step.output) for step in plan.steps)
    moved: dict[str, str] = {}
    if source and not drawn and (plan.folder / source).is_file():
        moved[source] = str(few_rows(plan.folder / source, plan.about["kind"], folder, few))
    calls = []
    skipped: list[Step] = []
    for step in plan.steps:
        trained = [one for one in plan.steps if one.command.startswith("train ")]
        evaluates = step.command.startswith("eval") and any(map(step.reads, trained))
        if evaluates or step.command in ("eval compare", "report") or any(map(step.reads, skipped)):
            skipped.append(step)  # an evaluation takes as long as that of the model before
            continue
        # Steps that are done are tried too: what others read has to be of few rows.
        calls.append(tried_call(step, plan, moved, folder, few))
    spec = {
        "model": str(plan.about.get("model", "")),
        "calls": calls,
        "results": str(folder / "results.jsonl"),
    }
    write_json(folder / "trial.json", spec)
    program = "from veridical.study.trying import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / "trial.json")],
        cwd=plan.folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "VERIDICAL_CACHE": "none"},
    )
    results = folder / "results.jsonl"
    if done.returncode or not results.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(said[-1].removeprefix("veridical: ") if said else "the trial ended.")
    ready, *rows = read_jsonl(results)
    tried = {row["name"]: Tried(row["fixed"], row["work"], row["failed"]) for row in rows}
    if not rows:
        raise UserError("no step could be tried.")
    return Trial(tried, ready["start"], rows[-1]["peak"], rows[-1]["seconds"], ready["device"])


def tried_call(
    step: Step, plan: Plan, moved: Mapping[str, str], folder: Path, few: int
) -> TriedCall:
    """A step as it is tried: on a few rows, into another folder."""

    def placed(value: OptionValue) -> OptionValue:
        if isinstance(value, Mapping):
            return {key: placed(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [placed(item) for item in value]
        if not isinstance(value, str):
            return value
        kind, colon, rest = value.partition(":")
        if colon and kind in ("local", "reward"):
            return f"{kind}:{placed(rest)}"
        if value in moved:
            return moved[value]
        for other in plan.steps:
            if lies_in(value, other.output):
                return str(folder / other.name / Path(value).relative_to(other.output))
        return value

    options = {
        name: str(folder / step.name) if name in OUTPUTS else placed(value)
        for name, value in step.options.items()
    }
    if step.command == "world make":
        options["count"] = few
    elif step.command.startswith("train "):
        options |= {"max_steps": STEPS, "evaluations": 1}
    elif step.command == "eval":
        options["limit"] = FEW_IMAGES
    made = replace(step, options=options)
    needs = [other.name for other in plan.needs(step)]
    return {"name": step.name, "words": made.words(), "out": str(made.output), "needs": needs}


def few_rows(path: Path, kind: Kind, folder: Path, count: int) -> Path:
    """Some of a file's first rows, the longest among them, with their images."""
    _, rows = raw_rows(path)
    first = [row for _, row in islice(rows, LOOKED_AT) if isinstance(row, dict)]
    first.sort(key=_length)
    places = [round(n * (len(first) - 1) / max(1, count - 1)) for n in range(count)]
    chosen = [first[place] for place in dict.fromkeys(places)]
    written = folder / "rows.parquet"
    if all(_is_plain(row) for row in chosen):
        write_jsonl(folder / "raw.jsonl", chosen)
        raw = folder / "raw.jsonl"
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        raw = folder / "raw.parquet"
        pq.write_table(pa.Table.from_pylist(chosen), raw)
    records = read_records(
        raw, kind, path.parent, max_bad_fraction=0.99, tells=False, has_option=False
    )
    write_records(records.rows, written, kind)
    return written


def _length(row: object) -> int:
    """Characters of all texts in a row."""
    if isinstance(row, Mapping):
        return sum(_length(item) for item in row.values())
    if isinstance(row, list | tuple):
        return sum(_length(item) for item in row)
    return len(row) if isinstance(row, str) else 0


def _is_plain(row: object) -> bool:
    try:
        json.dumps(row)
    except (TypeError, ValueError):
        return False
    return True


def read_result(out: Path) -> Mapping[str, Any]:
    """What a step's run says of its work; empty where it is not a run."""
    if not (out / "run.json").is_file():
        return {}
    found: Mapping[str, Any] = read_json(out / "run.json").get("results") or {}
    return found
