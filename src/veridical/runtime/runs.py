"""`run.json`: what a run was asked, with what, on what, and how it ended.

The file never holds the environment, and values whose names say that they are keys are left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import alone, hash_path, write_json
from veridical.runtime.local_code import imported_files
from veridical.runtime.options import by_option
from veridical.runtime.rendering_record import forget_variables, freeze_time, noted_variables
from veridical.runtime.run_folders import claim_folder, same_options, written_files
from veridical.runtime.run_record import RECORD, RunFields, is_finished, read_fields, this_process
from veridical.runtime.shards import read_shard
from veridical.runtime.versions import version_of

if TYPE_CHECKING:
    from veridical.runtime.fingerprint import Fingerprint

PACKAGES = ("veridical", "torch", "transformers", "peft", "datasets", "sentencex", "py3langid")
SECRET = re.compile(r"(^|_)(api_?key|password|secret|credentials?|(access|auth|hf)_token)$", re.I)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has been started; `finish` or `fail` says how it ended.

    As a context manager it writes "failed" when an exception passes through, "interrupted" when
    that is Ctrl-C or a SIGTERM, and leaves the exception alone; success is still said with
    `finish`.

    Attributes:
        folder: the run's own.
        record: what `run.json` holds while it runs.
        started: on the monotonic clock, in seconds.
        writes: whether this process writes `run.json`.
        foreign: what is in the folder and not the run's.
        any_process: whether others write it too; then what one of them finished stays finished.
    """

    folder: Path
    record: RunFields
    started: float
    writes: bool = True
    foreign: frozenset[str] = frozenset()
    any_process: bool = False

    def note(self, **fields: Any) -> None:
        """Add fields to `run.json` at once: a run that is killed has them."""
        self.record.update(cast(RunFields, json_types(fields)))
        with _alone_if(self.any_process, self.folder):
            if self._may_write():
                write_json(self.folder / RECORD, self.record)

    def note_model(
        self, option: str, name: str, found: Fingerprint, merges: Sequence[object] = ()
    ) -> None:
        """Add a model to those in `run.json`.

        Args:
            option: that names it.
            name: what the option says.
            found: which files it is.
            merges: what rounding cost of each adapter that was merged when it was loaded.
        """
        entry = {"name": name, **dataclasses.asdict(found)}
        if merges:
            entry["merges"] = merges
        self.note(models={**self.record.get("models", {}), option: entry})

    def finish(self, **results: Any) -> None:
        """Write "finished", the wall time in seconds and `results` to `run.json`."""
        self._end("finished", results=json_types(results))

    def fail(self, reason: str) -> None:
        """Write "failed", the wall time in seconds and why to `run.json`."""
        self._end("failed", reason=reason)

    def interrupt(self, reason: str) -> None:
        """Write "interrupted", the wall time in seconds and by what to `run.json`."""
        self._end("interrupted", reason=reason)

    def _end(self, status: str, **additions: object) -> None:
        seconds = round(time.monotonic() - self.started, 3)
        ending = {"status": status, "wall_time_seconds": seconds, **additions}
        given = noted_variables()
        ending |= {"template_variables": given} if given else {}
        with _alone_if(self.any_process, self.folder):
            if self.writes if status == "finished" else self._may_write():
                files = written_files(self.folder, self.foreign)
                write_json(self.folder / RECORD, {**self.record, **ending, "files": files})

    def _may_write(self) -> bool:
        """Whether `run.json` is this process's, and no other has finished the run meanwhile."""
        return self.writes and not (self.any_process and is_finished(self.folder))

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # On a full disk what went wrong matters more than that it can't be written down.
        with contextlib.suppress(UserError, OSError):
            if isinstance(error, KeyboardInterrupt):
                self.interrupt(str(error) or "Ctrl-C")
            elif kind is not None:
                self.fail(f"{kind.__name__}: {error}".removesuffix(": "))


def start_run(
    folder: Path,
    command: str,
    configuration: Mapping[str, Any],
    inputs: Mapping[str, Path] | None = None,
    any_process: bool = False,
    kept: Mapping[str, Any] | None = None,
    models: Iterable[Path] = (),
) -> Run:
    """Make `folder` and write its `run.json` with status "running".

    Of several processes that work together the first one writes, now and at the end.

    Args:
        folder: where the run's files go; made when it is missing.
        command: the command's words, such as "train dpo".
        configuration: every parameter of the command as it was resolved. The fields of a group
            are recorded one by one (`by_option`); paths become strings.
        inputs: files or folders the run reads, by role; their SHA-256 is recorded, and so are
            those of local code that was imported. A path that does not exist (a model's name on a
            hub) is recorded without one.
        any_process: whether each of several processes writes, as they do not meet: the last to
            finish says how it ended.
        kept: more fields, which an earlier record of the folder had.
        models: folders that models are loaded from, which the run must not write into;
            `Run.note_model` records them.

    Raises:
        UserError: the folder is another run's, holds something else, or is read by this run.
    """
    configuration = by_option(configuration)
    recorded = json_types(configuration)

    def claim() -> frozenset[str]:
        read = [*(inputs or {}).values(), *models]
        return claim_folder(folder, command, configuration, recorded, read, any_process)

    was_there = (folder / RECORD).exists()
    foreign = claim() if any_process else processes.from_first(claim)
    moment = _freeze_prompt_time(folder, any_process)
    forget_variables()
    writes = any_process or processes.is_first()
    record = {
        "command": command,
        "status": "running",
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "prompt_time": moment.isoformat(timespec="seconds"),
        "wall_time_seconds": None,
        "working_folder": str(Path.cwd()),
        "configuration": recorded,
        "process": this_process(),
        **({"foreign": sorted(foreign)} if foreign else {}),
    }
    is_new = writes and not was_there
    # Hashing the inputs may take minutes, in which another command would find the folder free.
    if is_new and not _write_first(folder, record):
        is_new, foreign = False, claim()
    try:
        record |= {
            "seeds": dict(_seeds(recorded)),
            "inputs": {
                name: _input(path) for name, path in {**(inputs or {}), **imported_files()}.items()
            },
            "versions": dict(_versions()),
            **_git(Path(__file__).resolve()),
            "hardware": _hardware(),
            **(kept or {}),
        }
        with _alone_if(any_process, folder):
            if writes and not (any_process and _is_over(folder, record, is_new)):
                write_json(folder / RECORD, record)
    except BaseException:
        if is_new and _is_ours(folder, record):
            (folder / RECORD).unlink()
        raise
    return Run(folder, cast(RunFields, record), time.monotonic(), writes, foreign, any_process)


def _alone_if(any_process: bool, folder: Path) -> contextlib.AbstractContextManager[None]:
    """Keep the other processes of a run from ending it between a look at its record and a note."""
    return alone(folder / RECORD) if any_process else contextlib.nullcontext()


def _is_ours(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the record there is still the first one that this process wrote."""
    try:
        known = read_fields(folder)
    except UserError:  # it is gone
        return False
    return known.get("process") == record["process"] and known.get("status") == "running"


def _is_over(folder: Path, record: Mapping[str, Any], is_new: bool) -> bool:
    """Whether nothing is left for this process: others have finished the run.

    Either while it hashed the inputs, or, of a build in shards, before it began.
    """
    if not is_finished(folder) or is_new:
        return is_finished(folder)
    options, known = record["configuration"], read_fields(folder)
    return (
        record["command"].startswith("build ")
        and read_shard(options.get("shard")).count > 1
        and same_options(known.get("configuration", {}), options)
        and known.get("inputs") == record["inputs"]
    )


def _write_first(folder: Path, record: Mapping[str, object]) -> bool:
    """Write a record where there is none; False where another process has just written its own."""
    draft = folder / f".{os.getpid()}.{RECORD}"
    write_json(draft, record)
    try:
        (folder / RECORD).hardlink_to(draft)
    except FileExistsError:
        return False
    except OSError:  # a file system without links; the record is written in a moment
        pass
    finally:
        draft.unlink()
    return True


def _freeze_prompt_time(folder: Path, any_process: bool) -> datetime:
    """What chat templates take for the present: when the folder's first run started.

    So a run that goes on tomorrow has today's prompts.
    """

    def found() -> datetime:
        with contextlib.suppress(UserError, OSError, KeyError):
            return datetime.fromisoformat(read_fields(folder)["prompt_time"])
        return datetime.now().replace(microsecond=0)

    moment = found() if any_process else processes.from_first(found)
    freeze_time(moment)
    return moment


def json_types(value: Any) -> Any:
    """`value` in JSON's types: paths and non-finite numbers as strings, dataclasses as objects."""
    if isinstance(value, enum.Enum):
        return json_types(value.value)
    if isinstance(value, np.generic):
        return json_types(value.item())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return json_types({field.name: getattr(value, field.name) for field in fields})
    if isinstance(value, Mapping):
        return {
            str(name): "(not recorded)" if SECRET.search(str(name)) and item else json_types(item)
            for name, item in value.items()
        }
    if isinstance(value, AbstractSet):
        return sorted(json_types(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [json_types(item) for item in value]
    return str(value)


def _seeds(configuration: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in configuration.items():
        if isinstance(value, Mapping):
            yield from _seeds(value, f"{prefix}{name}.")
        elif name in ("seed", "seeds") or name.endswith(("_seed", "_seeds")):
            yield f"{prefix}{name}", value


def _input(path: Path) -> dict[str, str | None]:
    return {"path": str(path), "sha256": hash_path(path) if path.exists() else None}


@functools.cache
def _versions() -> Mapping[str, str | None]:
    # Once for all runs of a process: what it imports stays as it is.
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = version_of(package)
    return versions


def _git(code: Path) -> dict[str, object]:
    """The commit that holds `code` and whether the package differs from it; None for a wheel.

    Asking whether the file is tracked tells a checkout from a wheel that was installed into an
    environment inside somebody else's checkout.
    """
    if _git_output(code.parent, "ls-files", "--error-unmatch", code.name) is None:
        return {"git_hash": None, "git_dirty": None}
    changes = _git_output(code.parent, "status", "--porcelain", "--", ".")
    return {"git_hash": _git_output(code.parent, "rev-parse", "HEAD"), "git_dirty": bool(changes)}


def _git_output(folder: Path, *words: str) -> str | None:
    # Without the lock that `git status` takes to refresh its index, and leaves on a full disk.
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _hardware() -> dict[str, object]:
    # Imported here because reading a run (the report) should not wait seconds for it.
    import torch

    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "system": platform.platform(),
    }


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None
