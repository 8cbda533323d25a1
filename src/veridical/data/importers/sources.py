"""Where the rows of a foreign set are: a file, a folder, or a name on the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from veridical.data.importers import meta, sidecars, tables, webdataset
from veridical.data.importers.splits import files_of
from veridical.data.record_files import count_rows, stream_rows
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.hub import can_look_up, hub_host, looks_like_path

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".tar", *tables.SUFFIXES)
UNREAD = (
    *tables.SUFFIXES, ".txt", ".arrow", ".feather", ".xlsx", ".xls", ".pkl", ".lmdb", ".h5",
    ".gz", ".zip", ".zst", ".xz", ".bz2", ".7z",
)  # fmt: skip
"""Files that may hold rows too, and that are not read, a table beside other files of rows."""
NAMED = 3
"""Of them that a message names."""
FEW = 1000
"""Files whose rows are counted before they are read, for the time left."""
ABOUT = ("dataset_info.json", "export.json", "skipped.jsonl")
"""Files of an exported folder that hold no rows."""


@dataclass(frozen=True)
class Place:
    """Where a row is: its file (or the name on the hub) and its number there, from 1."""

    file: str
    row: int


@dataclass(frozen=True)
class Source:
    """A foreign set.

    Attributes:
        name: as it was given.
        rows: gives the rows with their places, from the first one on each time.
        root: the folder that paths of images are relative to.
        files: the local files that are read; none for a set on the hub.
        revision: the commit on the hub; empty for local files.
        total: counts the rows, for the time left; None where only reading them would say.
    """

    name: str
    rows: Callable[[], Iterator[tuple[Place, object]]]
    root: Path
    files: tuple[Path, ...] = ()
    revision: str = ""
    total: Callable[[], int | None] = lambda: None


def open_source(
    name: str,
    config: str | None,
    split: str,
    revision: str | None,
    images_root: Path | None = None,
) -> Source:
    """Find a set; its rows are read when they are asked for, a few at a time.

    Args:
        name: a file, a folder, or a name on the hub.
        config: of a set with several.
        split: of a folder or a set on the hub.
        revision: of a set on the hub; the newest if None.
        images_root: what paths of images are relative to; the source's own folder if None.

    Raises:
        UserError: there is no such set, or nothing in it can be read.
    """
    if not name.strip():
        raise UserError("SOURCE is empty. Name a file, a folder or a set on the hub.")
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} must end in {', '.join(SUFFIXES)}, or be a folder.")
        if meta.is_meta(path):
            return _open_meta(path)
        return Source(
            name, lambda: _of_file(path), path.parent, (path,), total=lambda: _total([path])
        )
    if path.is_dir():
        return _open_folder(path, config, split, images_root or path)
    if looks_like_path(name):
        raise UserError(f"{name} does not exist. Check the path, or give a hub name (owner/set).")
    return _open_hub(name, config, split, revision)


def _open_meta(path: Path) -> Source:
    parts = meta.entries(path)
    repeated = [f"{one.name} x {one.repeats:g}" for one in parts if one.repeats != 1]
    if repeated:
        print(f"{path} wants rows repeated; give train --data-weights: {', '.join(repeated)}.")

    def rows() -> Iterator[tuple[Place, object]]:
        for one in parts:
            for number, row in meta.meta_rows(one):
                yield Place(str(one.annotation), number), row

    annotations = [one.annotation for one in parts]
    return Source(
        str(path), rows, path.parent, (path, *annotations), total=lambda: _total(annotations)
    )


def _total(files: Sequence[Path]) -> int | None:
    if any(file.suffix.lower() in (".tar", *tables.SUFFIXES) for file in files):
        return None
    counts = [count_rows(file) for file in files]
    return None if None in counts else sum(count or 0 for count in counts)


def _of_file(path: Path) -> Iterator[tuple[Place, object]]:
    suffix = path.suffix.lower()
    rows = webdataset.webdataset_rows if suffix == ".tar" else stream_rows
    for number, row in tables.table_rows(path) if suffix in tables.SUFFIXES else rows(path):
        yield Place(str(path), number), row


def _of_files(paths: Sequence[Path]) -> Iterator[tuple[Place, object]]:
    """Rows of all; of several JSON files each may hold one row, and may be broken."""
    for path in paths:
        if len(paths) > 1 and path.suffix.lower() == ".json":
            yield from _of_json_files([path], None)
        else:
            yield from _of_file(path)


def _open_folder(path: Path, config: str | None, split: str, root: Path) -> Source:
    metas = [file for file in sorted(path.glob("*.json")) if meta.is_meta(file)]
    if len(metas) == 1:
        return _open_meta(metas[0])
    every = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    rows = [file for file in every if file.name not in ABOUT]
    files = [file for file in rows if file.suffix.lower() not in tables.SUFFIXES] or rows
    unread = _unread(path, files)
    if not files:
        there = f" (there are {unread})" if unread else ""
        raise UserError(f"{path} holds no {', '.join(SUFFIXES)} file{there}.")
    if unread:
        print(f"Not read, by their suffix: {unread} in {path}.")
    pictures = sidecars.pictures_in(path, root)
    of_pictures = sidecars.sidecars(path, files, pictures)
    if of_pictures is not None:
        chosen = files_of(split, path, of_pictures, by_name=False)
        return Source(str(path), lambda: _of_json_files(chosen, pictures), path, (*chosen,))
    if len(files) == 1 and config is None:
        return Source(
            str(path), lambda: _of_files(files), path, (*files,), total=lambda: _total(files)
        )
    shards = all(file.suffix.lower() == ".tar" for file in files)
    if config is None and not _has_configs(path):
        chosen = files if shards else files_of(split, path, files)
        total = (lambda: _total(chosen)) if len(chosen) < FEW else lambda: None
        return Source(str(path), lambda: _of_files(chosen), path, (*chosen,), total=total)
    print(f"{path} has {len(files)} files: only its split {split!r} is read; --split sets another.")
    if all(file.suffix.lower() in tables.SUFFIXES for file in files):
        return Source(
            str(path), lambda: _of_files(_tables_of(path, config, split)), path, (*files,)
        )
    return Source(str(path), lambda: _of_datasets(str(path), config, split, None), path, (*files,))


def _tables_of(path: Path, config: str | None, split: str) -> list[Path]:
    """A split's tables, as Datasets finds them; its own reader makes "NA" nothing and 007 a 7.

    Raises:
        UserError: there is no such split.
    """
    try:
        found = datasets.load_dataset_builder(str(path), config).config.data_files or {}
    except MemoryError:
        raise
    except Exception as error:  # of Datasets, for what it does not understand
        raise UserError(f"{path} can't be read: {reason_of(error)}.") from error
    if split not in found:
        raise UserError(
            f"{path} has no split {split!r}. Set --split to one of {', '.join(map(str, found))}."
        )
    return [file for file in map(Path, found[split]) if file.suffix.lower() in tables.SUFFIXES]


def _has_configs(path: Path) -> bool:
    """Whether a folder says itself which files are which split, as sets of the hub do."""
    card = path / "README.md"
    return card.is_file() and "configs:" in card.read_text(errors="replace").partition("\n---")[0]


def _of_json_files(
    files: Sequence[Path], pictures: sidecars.Pictures | None
) -> Iterator[tuple[Place, object]]:
    for file in files:
        for number, row in sidecars.json_rows(file, pictures):
            yield Place(str(file), number), row


def _unread(path: Path, files: Sequence[Path]) -> str:
    """Names of files in a folder that may hold rows and are not read; empty without any."""
    found = (file for file in path.rglob("*") if file.suffix.lower() in UNREAD)
    found = (file for file in found if file not in files)
    names = sorted(str(file.relative_to(path)) for file in found)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _open_hub(name: str, config: str | None, split: str, revision: str | None) -> Source:
    host = hub_host()
    if host and not can_look_up(host):
        raise UserError(
            f"{name} is not a file or folder here, and the hub ({host}) can't be reached."
        )
    try:
        commit = HfApi().dataset_info(name, revision=revision).sha or ""
    except MemoryError:
        raise
    except Exception as error:  # of the hub's client, or of the network
        refusal = _refusal(name, revision, error)
        raise UserError(
            refusal or f"{name} can't be found on the hub: {reason_of(error)}."
        ) from error
    return Source(
        name, lambda: _of_datasets(name, config, split, commit), Path.cwd(), (), revision=commit
    )


def _of_datasets(
    name: str, config: str | None, split: str, revision: str | None
) -> Iterator[tuple[Place, object]]:
    """Rows as Datasets streams them; images are not decoded."""
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
        # Of tables and JSON Lines types are not known before they are read; nothing is decoded.
        known = rows if rows.features is None else rows.decode(False)
        for number, row in enumerate(known, start=1):
            yield Place(name, number), row
    except (GeneratorExit, MemoryError, UserError):
        raise
    except Exception as error:  # of whatever the set's files lead to
        refusal = _refusal(name, revision, error)
        raise UserError(
            refusal
            or f"{name} can't be read by Datasets: {reason_of(error)}. Set --split or --subset, or "
            "name the file itself."
        ) from error


def _refusal(name: str, revision: str | None, error: BaseException) -> str | None:
    """What the hub refuses, and what to do; None where it does not refuse."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    # Datasets does not find a set that the hub has said something of: its files are withheld.
    if any(isinstance(one, GatedRepoError | DatasetNotFoundError) for one in causes):
        return (
            f"{name} is gated: only accounts that were let in may read it. Ask for access at "
            f"{constants.ENDPOINT}/datasets/{name}, and set HF_TOKEN to a token of that account."
        )
    if any(isinstance(one, RevisionNotFoundError) for one in causes):
        return (
            f"{name} has no revision {revision}. Set --revision to a branch, tag or commit of it."
        )
    if any(isinstance(one, RepositoryNotFoundError) for one in causes):
        return (
            f"{name} is not a set on the hub that this token may read. Check the name; for a "
            "private set, set HF_TOKEN to a token that may read it."
        )
    return None
