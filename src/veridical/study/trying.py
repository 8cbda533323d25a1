"""The process in which a plan's steps are tried on a few rows."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from veridical.runtime.files import read_json
from veridical.runtime.progress import counted
from veridical.study.rehearsal import TriedCall, read_result


def main() -> None:
    """Run the calls of the file that the command line names, and write what each took."""
    began = time.monotonic()
    spec = read_json(Path(sys.argv[1]))
    results = Path(spec["results"])

    from veridical.cli.dispatch import calm_libraries

    calm_libraries()
    import torch

    from veridical.models.load import load_policy

    start = time.monotonic() - began
    load = 0.0
    if spec["model"]:
        loading = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            load_policy(spec["model"])
        load = time.monotonic() - loading
    with results.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"start": start, "device": device()}) + "\n")
        failed: set[str] = set()
        for call in spec["calls"]:
            missing = [name for name in call["needs"] if name in failed]
            done = without(call, missing) if missing else try_call(call, load)
            if done["failed"]:
                failed.add(call["name"])
            row = {**done, "peak": peaks(), "seconds": time.monotonic() - began}
            file.write(json.dumps(row) + "\n")
            file.flush()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def without(call: TriedCall, missing: Sequence[str]) -> dict[str, object]:
    """What is written of a command that can't be tried, as those failed whose files it reads."""
    failed = f"it needs {', '.join(missing)}"
    return {"name": call["name"], "fixed": 0.0, "work": 0.0, "failed": failed}


def try_call(call: TriedCall, load: float) -> dict[str, object]:
    """Run one command here; what it says is kept back.

    Args:
        call: its name, words and output.
        load: seconds that loading the model takes.
    """
    from veridical.cli.dispatch import main as run_command

    began, errors = time.monotonic(), io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            status = run_command(call["words"])
        except Exception as error:  # whatever it is, the step itself will show it
            return {"name": call["name"], "fixed": 0.0, "work": 0.0, "failed": str(error)[:200]}
    wall = time.monotonic() - began
    if status:
        told = [line for line in errors.getvalue().splitlines() if line.strip()]
        reason = told[-1].removeprefix("veridical: ")[:200] if told else f"status {status}"
        return {"name": call["name"], "fixed": 0.0, "work": 0.0, "failed": reason}
    found = read_result(Path(call["out"]))
    fixed, work = parts(found, wall, load)
    return {"name": call["name"], "fixed": fixed, "work": work, "failed": ""}


def parts(found: Mapping[str, Any], wall: float, load: float) -> tuple[float, float]:
    """Seconds that do not grow with the rows, and those of the work; of a training, of a step."""
    if found.get("step_seconds") is not None:
        step = float(found["step_seconds"])
        return max(wall - step * int(found["steps"]), 0.0), step
    if found.get("train_seconds") and found.get("steps"):
        seconds = float(found["train_seconds"])
        return max(wall - seconds, 0.0), seconds / int(found["steps"])
    work = float(found["seconds"]) if "seconds" in found else max(wall - load, 0.0)
    return max(wall - work, 0.0), work


def device() -> str:
    """What models run on here, where nothing else is asked for."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return counted(os.cpu_count() or 1, "CPU cores")


def peaks() -> dict[str, int]:
    """Bytes that this process and its GPU held at the most so far."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    found = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        found["GPU memory"] = torch.cuda.max_memory_allocated()
    return found
