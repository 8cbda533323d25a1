"""Questions that Datasets reads, from the hub or a folder, as the files that a benchmark publishes.

Copies on the hub have the published fields, with the images in a column. They are written as
published files once for each commit, and read like these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import platformdirs

from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.hub import looks_like_path

if TYPE_CHECKING:
    from veridical.eval.evaluation import Subject

Row: TypeAlias = Mapping[str, Any]
Options = TypeVar("Options")
VARIABLE = "VERIDICAL_BENCHMARKS"
FILE, IMAGES = "questions", "images"
SUFFIXES = (".json", ".jsonl", ".tsv", ".csv", ".txt")


@dataclass(frozen=True)
class HubSet:
    """How rows of a copy on the hub become a benchmark's published file.

    Attributes:
        name: where such a copy is, for messages.
        parts: its configurations and splits, read in this order.
        row: a row as published; None for one that only has an image.
        image: what its image's file is called, within the folder of images; "" for none.
        write: writes the published file.
        option: names the set on the command line; a path, or a list with one.
    """

    name: str
    parts: Sequence[tuple[str | None, str]]
    row: Callable[[Row], Any]
    image: Callable[[Row], str]
    write: Callable[[Path, list[Any]], None] = write_json
    option: str = "files"


def by_id(path: Path, rows: list[Any]) -> None:
    """Write rows (id, content) as a JSON object."""
    write_json(path, dict(rows))


def content_name(row: Row, suffix: str = ".png") -> str:
    """A file name that is equal for equal images, so that questions about one are one cluster."""
    content = image_bytes(row)
    return f"{hashlib.sha256(content).hexdigest()[:16]}{suffix}" if content else ""


def image_bytes(row: Row) -> bytes:
    """The encoded image of a row; nothing if it has none."""
    image = row.get("image")
    found = image.get("bytes") if isinstance(image, Mapping) else image
    return found if isinstance(found, bytes) else b""


def with_hub_files(
    hub: HubSet | None, options: Options, subject: Subject
) -> tuple[Options, Subject, str]:
    """Options with the published file in place of a name on the hub, and its images.

    Args:
        hub: how the benchmark reads such copies; None where it does not.
        options: the benchmark's own; the set's option may be a name on the hub, or a folder of
            Parquet.
        subject: gets the images, unless it has a folder of its own.

    Returns:
        Also what was read, as "owner/set@commit"; "" where published files are given.

    Raises:
        UserError: there is no such set, or its rows are of another form.
    """
    given = getattr(options, "files" if hub is None else hub.option, None)
    files = given[0] if isinstance(given, list) and len(given) == 1 else given
    if not isinstance(files, Path) or not _is_set(files):
        return options, subject, ""
    if hub is None:
        if files.is_dir():
            return options, subject, ""
        raise UserError(
            f"--files {files} does not exist here, and this benchmark is read from its published "
            "files only. Name these."
        )
    folder, read = _fetched(hub, str(files))
    images = subject.images or folder / IMAGES
    # Other options may name the same copy, where it has what is published in several files.
    values = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)  # type: ignore[arg-type]
    }
    replaced: dict[str, object] = {
        n: folder / FILE for n, value in values.items() if value == files
    }
    replaced |= {n: [folder / FILE] for n, value in values.items() if value == [files]}
    options = dataclasses.replace(options, **replaced)  # type: ignore[type-var]
    return options, dataclasses.replace(subject, images=images), read


def _is_set(files: Path) -> bool:
    if files.is_dir():
        return any(files.rglob("*.parquet"))
    name = str(files)
    return not (files.exists() or files.suffix in SUFFIXES or looks_like_path(name)) and "/" in name


def _fetched(hub: HubSet, name: str) -> tuple[Path, str]:
    """The folder of the published file, made the first time."""
    from veridical.data.importers.sources import Source, open_source

    sources: list[Source] = []
    for config, split in hub.parts:
        revision = sources[0].revision if sources else None
        sources.append(open_source(name, config, split, revision or None))
    revision = sources[0].revision or _hash_of([file for one in sources for file in one.files])
    place = Path(os.environ.get(VARIABLE) or platformdirs.user_cache_path("veridical-benchmarks"))
    key = hashlib.sha256(f"{hub.name} {name} {revision} {hub.parts}".encode()).hexdigest()[:16]
    folder = place / f"{name.strip('/').rpartition('/')[2]}-{key}"
    read = f"{name}@{revision}"
    if folder.is_dir():
        return folder, read
    place.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=place))
    try:
        _write(hub, sources, partial)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder, read


def _write(hub: HubSet, sources: Sequence[Any], folder: Path) -> None:
    rows: list[Any] = []
    (folder / IMAGES).mkdir()
    for source in sources:
        for place, row in source.rows():
            where = f"{place.file}, row {place.row}"
            if not isinstance(row, Mapping):
                raise UserError(f"{where}: is not a row of {hub.name}.")
            try:
                name, own = hub.image(row), hub.row(row)
            except (KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{where}: has no {error} as {hub.name} has. Name the published files, or a "
                    f"copy such as {hub.name}."
                ) from error
            if own is not None:
                rows.append(own)
            if name and (content := image_bytes(row)):
                _save(folder / IMAGES, name, content)
    if not rows:
        raise UserError(f"{sources[0].name} has no questions.")
    hub.write(folder / FILE, rows)


def _save(folder: Path, name: str, content: bytes) -> None:
    file = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"The image {name!r} would lie outside the folder of images.")
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _hash_of(files: Sequence[Path]) -> str:
    from veridical.runtime.files import hash_file

    joined = "".join(hash_file(file) for file in sorted(set(files)))
    return hashlib.sha256(joined.encode()).hexdigest()[:16]
