"""`run.json` as it is read: every field that is there has the shape that runs write."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json

RECORD = "run.json"
STATUSES = ("running", "finished", "failed", "interrupted")


class InputEntry(TypedDict):
    """A file that a run reads."""

    path: str
    sha256: str | None


class ProcessEntry(TypedDict):
    """The process of a run."""

    host: str
    id: int
    began: NotRequired[str | None]


class ExtensionEntry(TypedDict):
    """From which step a run is extended, and the length that it had."""

    from_step: int
    length: Mapping[str, Any]


class RunFields(TypedDict, total=False):
    """`run.json`; a killed run has not all of it."""

    command: str
    status: Literal["running", "finished", "failed", "interrupted"]
    started_utc: str
    prompt_time: str
    wall_time_seconds: float | None
    working_folder: str
    configuration: Mapping[str, Any]
    objective: Mapping[str, Any]
    seeds: Mapping[str, Any]
    inputs: Mapping[str, InputEntry]
    models: Mapping[str, Any]
    versions: Mapping[str, Any]
    hardware: Mapping[str, Any]
    results: Mapping[str, Any]
    merged: Mapping[str, Any]
    saved: list[str]
    reason: str
    files: list[str]
    foreign: list[str]
    process: ProcessEntry
    extended: ExtensionEntry


@dataclass(frozen=True)
class RunRecord:
    """What a folder's rule needs of `run.json`.

    Attributes:
        command: its words, such as "train dpo"; empty where the file has none.
        status: one of `STATUSES`.
        configuration: every option as resolved.
        files: what the run wrote, relative to its folder; None while it runs, and where it was
            killed.
        foreign: what was in the folder before and is not the run's, as far as it was noted.
        process_id: the process that began it.
        is_alive: whether that process runs now, on this machine.
    """

    command: str
    status: str
    configuration: Mapping[str, Any]
    files: list[str] | None
    foreign: frozenset[str]
    process_id: int | None
    is_alive: bool


def read_record(folder: Path) -> RunRecord:
    """The record of the run in a folder.

    Raises:
        UserError: it is missing, is not JSON, or a field has another shape.
    """
    fields = read_fields(folder)
    process: Mapping[str, Any] = fields.get("process") or {}
    running = fields.get("status") == "running"
    return RunRecord(
        fields.get("command", ""),
        fields.get("status", ""),
        fields.get("configuration", {}),
        None if running else fields.get("files"),
        frozenset(fields.get("foreign", ())),
        process.get("id"),
        running and is_alive(process),
    )


def is_finished(folder: Path) -> bool:
    """Whether a folder's `run.json` says so; False where there is none."""
    return (folder / RECORD).is_file() and read_fields(folder).get("status") == "finished"


def unfinished(fields: Mapping[str, object]) -> str:
    """Why what lies beside this record may be of an earlier run; empty where it is the run's own.

    A run that goes on in its folder and then stops leaves the results there of the time before.
    """
    status = fields.get("status")
    if status not in ("failed", "interrupted"):
        return ""
    reason = str(fields.get("reason", "")).strip()
    return f"the last run there {'failed' if status == 'failed' else 'was interrupted'}" + (
        f" ({reason})" if reason else ""
    )


def read_fields(folder: Path) -> RunFields:
    """Every field of `run.json`, with the shapes that runs write; some may be missing.

    Raises:
        UserError: it is missing, is not JSON, or a field has another shape; the message names file
            and field.
    """
    path = folder / RECORD
    fields: RunFields = read_json(path)
    _check_fields(path, fields)
    return fields


def _check_fields(path: Path, content: Mapping[str, object]) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a run's record: it has to be a JSON object.")
    for name, (wanted, fits) in SHAPES.items():
        if name in content and not fits(content[name]):
            raise UserError(
                f"{path}: {name} has to be {wanted}, not {_shown(content[name])}. The file was "
                "changed since the run wrote it; restore it."
            )


def this_process() -> dict[str, object]:
    """What tells this process from every other, of other machines and other times too."""
    return process_entry(os.getpid())


def process_entry(process_id: int) -> dict[str, object]:
    """What tells a process of this machine from every other."""
    return {"host": socket.gethostname(), "id": process_id, "began": _began(process_id)}


def is_alive(process: Mapping[str, Any]) -> bool:
    """Whether a process, by its entry, runs now on this machine and is not this one."""
    if process.get("host") != socket.gethostname() or process.get("id") in (None, os.getpid()):
        return False
    try:
        os.kill(process["id"], 0)
    except (OSError, OverflowError):
        return False
    # Its number may have gone to another process since.
    return process.get("began") == _began(process["id"])


def _began(process_id: int) -> str | None:
    """When a process began, in ticks since the machine did; None where that is not known."""
    try:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    # One that has ended, and whose parent does not ask how, is not a process any more.
    return None if state == "Z" else rest[18]


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_moment(value: Any) -> bool:
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_inputs(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("path"), str)
        and isinstance(entry.get("sha256"), str | None)
        for entry in value.values()
    )


def _is_seconds(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_files(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(name, str)
        and name != ""
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        for name in value
    )


def _is_process(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("host"), str)
        and type(value.get("id")) is int
        and value["id"] > 0
    )


def _is_extension(value: object) -> bool:
    return (
        isinstance(value, dict)
        and type(value.get("from_step")) is int
        and isinstance(value.get("length"), dict)
    )


SHAPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "command": ("a text", _is_text),
    "status": (f"one of {', '.join(STATUSES)}", lambda value: value in STATUSES),
    "started_utc": ("a date and time", _is_moment),
    "prompt_time": ("a date and time", _is_moment),
    "wall_time_seconds": ("a number or null", _is_seconds),
    "working_folder": ("a text", _is_text),
    "configuration": ("an object of options", _is_object),
    "objective": ("an object", _is_object),
    "seeds": ("an object", _is_object),
    "inputs": ("an object of {path, sha256}", _is_inputs),
    "models": ("an object", _is_object),
    "versions": ("an object", _is_object),
    "hardware": ("an object", _is_object),
    "results": ("an object", _is_object),
    "reason": ("a text", _is_text),
    "files": ("a list of files in the run's folder", _is_files),
    "foreign": ("a list of files in the run's folder", _is_files),
    "process": ("an object of host and id", _is_process),
    "extended": ("an object of from_step and length", _is_extension),
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
