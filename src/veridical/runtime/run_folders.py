"""Whose a folder is: the one rule about where every command writes.

- An output is never an input: what a run reads lies in no folder that it writes to.
- A folder belongs to one run. A run starts in a new or empty folder, or goes on in one that its
  own command began.
- Only files that a run wrote, by its record (`files` in `run.json`), are replaced or removed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from veridical.runtime.errors import UserError
from veridical.runtime.run_record import RECORD, read_record

HARMLESS = (".log", ".out", ".err", ".txt", ".md", ".yaml", ".yml", ".sh", ".sbatch", ".html")
"""Kinds of files that no run writes beside its record: notes, job scripts, logs, reports."""
WRITTEN = re.compile(
    r"(pairs|samples|records|conversations|train|held_out)\.parquet|\w+_images"
    r"|(run|summary|scores|comparison|checked|start|proofs|reference_logps|dry_run|rewards|rounding|tuning|objects|steps)\.json"
    r"|(skipped|answers|answers\.partial.*|questions|replies|details|rewards|comparisons|log|shown|pictures|steps)\.jsonl"
    r"|(differences|tax|table|rules|power)\.(md|csv|tex|json)"
    r"|(spent\.jsonl|run\.json)\.lock|spent\.jsonl|(recipe|plan)\.yaml"
    r"|parts|claimed|checkpoints|model|adapter|rollouts|engine|tensorboard|wandb"
    r"|data|pairs|train|eval|logs|trials|steps|jobs|cache|held[-_]out|seed\d+"
)
"""Every name that a command writes into its folder."""
NOT_READ = ("out", "cache", "folder", "output_dir", "logging_dir")
"""Options that name what is written."""
MAY_DIFFER = ("out", "shard", "device", "batch_size", "cache", "cache_gigabytes")
"""Options in which processes that share a run may differ."""


def claim_folder(
    folder: Path,
    command: str,
    configuration: Mapping[str, object],
    recorded: Mapping[str, object],
    inputs: Iterable[Path],
    shared: bool = False,
) -> frozenset[str]:
    """Check that a run may write to a folder; nothing is written.

    Args:
        folder: the run's own.
        command: its words, such as "eval pope".
        configuration: every option, with paths as paths.
        recorded: the same as `run.json` holds it.
        inputs: more that it reads.
        shared: whether other processes may work on the same run there.

    Returns:
        What is in the folder and not the run's: names, and files within the run's own folders.

    Raises:
        UserError: it may not; the message says what is in the way.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder to write to.")
    for path in [*_paths(configuration), *inputs]:
        _refuse_input(folder, path)
    if not folder.is_dir():
        return frozenset()
    names = {path.name for path in _entries(folder) if not _is_left_empty(path)}
    if RECORD not in names:
        return _claim_new(folder, names)
    record = read_record(folder)
    if record.command != command:
        raise UserError(
            f"{folder} holds a run of `{record.command}`. A folder belongs to one run; choose "
            "another --out."
        )
    if record.is_alive and not (shared and same_options(record.configuration, recorded)):
        raise UserError(
            f"Process {record.process_id} is writing to {folder}. Wait for it, or choose another "
            "--out."
        )
    if command.startswith("build ") and record.status == "finished":
        _refuse_other_options(folder, command, record.configuration, recorded)
    if record.files is None:  # it was killed, or is of a version that kept no list
        return frozenset(name for name in names if not WRITTEN.fullmatch(name)) | record.foreign
    own = {PurePosixPath(name).parts[0] for name in record.files} | {RECORD}
    foreign = {name for name in names - own if not _is_apart(folder / name)}
    if taken := sorted(name for name in foreign if WRITTEN.fullmatch(name)):
        raise UserError(
            f"{folder / taken[0]} was not written by the run in {folder}, which may replace it. "
            "Move it, or choose another --out."
        )
    added = set(written_files(folder, frozenset(names - own))) - set(record.files)
    return frozenset(names - own) | added


def written_files(folder: Path, foreign: frozenset[str]) -> list[str]:
    """The files of a run, relative to its folder; of a run within it, only its record."""
    return sorted(
        path.relative_to(folder).as_posix()
        for entry in _entries(folder)
        if entry.name not in foreign and entry.name != RECORD
        for path in _files(entry)
        if path.relative_to(folder).as_posix() not in foreign
    )


def remove_written(folder: Path, name: str) -> None:
    """Remove what runs wrote in a folder of theirs, such as `model`; what a user put there stays.

    Args:
        folder: the run's own, with its record.
        name: of the folder within it; it may be missing.
    """
    foreign = read_record(folder).foreign if (folder / RECORD).is_file() else frozenset()
    inner = folder / name
    if inner.is_symlink() or not inner.is_dir():
        return
    for path in list(_files(inner)):
        if path.relative_to(folder).as_posix() not in foreign:
            path.unlink(missing_ok=True)
    for place in [*sorted(inner.rglob("*"), reverse=True), inner]:
        if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
            place.rmdir()


def remove_run(folder: Path) -> None:
    """Remove what a run wrote, by its record and those of the runs that it began, and no more.

    Raises:
        UserError: a record does not say which files its run wrote; then nothing is removed.
    """
    for path in list(_recorded_files(folder)):
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else is there
            for place in path.parents:
                if not place.is_relative_to(folder):
                    break
                place.rmdir()


def _recorded_files(folder: Path) -> Iterator[Path]:
    files = read_record(folder).files
    if files is None:
        raise UserError(
            f"{folder / RECORD} does not say which files that run wrote: it was killed, or is of "
            "an older version. Delete its folder yourself, or choose another --out."
        )
    for name in files:
        path = folder / name
        if path.name != RECORD:
            yield path
        elif path.is_file():
            yield from _recorded_files(path.parent)
    yield folder / RECORD


def require_new_folder(folder: Path) -> None:
    """Refuse a folder that holds anything, for commands that can't go on in one.

    Raises:
        UserError: it does, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder to write to.")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty. Name a new folder to write to.")


def _claim_new(folder: Path, names: set[str]) -> frozenset[str]:
    apart = {name for name in names if _is_apart(folder / name)}
    if strangers := sorted(names - apart):
        raise UserError(
            f"{folder} holds {strangers[0]} and no run. Name a new or empty folder to write to."
        )
    return frozenset(apart)


def _is_apart(path: Path) -> bool:
    """Whether an entry is of no run, or of one in a folder of its own."""
    if path.is_dir():
        return (path / RECORD).is_file()
    return path.suffix in HARMLESS and not WRITTEN.fullmatch(path.name)


def _is_left_empty(path: Path) -> bool:
    """Whether it is a run's folder without a file, as of a training stopped before a checkpoint."""
    return bool(WRITTEN.fullmatch(path.name)) and next(_files(path), None) is None


def _entries(folder: Path) -> Iterator[Path]:
    """What is in a folder; hidden files are of editors, file systems and unfinished writes."""
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
    elif (path / RECORD).is_file():
        yield path / RECORD
    else:
        # Another process of the same run may be removing what it has put together.
        with contextlib.suppress(FileNotFoundError):
            for entry in path.iterdir():
                yield from _files(entry)


def _refuse_input(folder: Path, path: Path) -> None:
    """Refuse to read what lies in the folder, unless another run within it wrote it.

    Raises:
        UserError: the run would write over what it reads.
    """
    try:
        if not path.exists():
            return
        inside = path.resolve().relative_to(folder.resolve())
    # A text that can be no path, links in a circle; or it lies elsewhere.
    except (OSError, ValueError, RuntimeError):
        return
    above = [folder.joinpath(*inside.parts[:count]) for count in range(1, len(inside.parts) + 1)]
    if not any((place / RECORD).is_file() for place in above):
        raise UserError(
            f"{path} is read, and lies in {folder}, which is written to. An output is never an "
            "input: choose another --out."
        )


def _paths(configuration: Mapping[str, object]) -> Iterator[Path]:
    """Every path that options name to be read; a text with a separator may be one."""
    for name, value in configuration.items():
        if name in NOT_READ:
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Path):
                yield item
            elif isinstance(item, Mapping):
                yield from _paths(item)
            elif isinstance(item, str) and os.sep in item and "\0" not in item:
                yield Path(item.partition(":")[2] if item.startswith("local:") else item)


def _refuse_other_options(
    folder: Path, command: str, known: Mapping[str, Any], recorded: Mapping[str, Any]
) -> None:
    """Keep what was built: other options would replace it by another set under the same name."""
    for name, value in recorded.items():
        grows = (
            name == "limit"
            and known.get(name) is not None
            and (value is None or value > known[name])
        )
        if name not in MAY_DIFFER and name in known and known[name] != value and not grows:
            option = name.replace("_", "-")
            raise UserError(
                f"{folder} holds a finished `{command}` with another --{option} "
                f"({known[name]!r}, now {value!r}). Choose another --out, or remove the folder to "
                "build again in it."
            )


def same_options(known: Mapping[str, object], recorded: Mapping[str, object]) -> bool:
    """Whether two runs may share a folder: all options are the same that decide the result."""
    decided = [name for name in recorded if name not in MAY_DIFFER]
    return all(known.get(name) == recorded[name] for name in decided)
