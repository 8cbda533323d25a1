"""Whether a model was trained on the images that it is evaluated on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from veridical.data.record_files import parquet_columns, raw_rows
from veridical.data.record_kinds import RowError
from veridical.data.record_names import with_own_names
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file
from veridical.runtime.progress import counted
from veridical.runtime.run_record import RECORD, read_fields

DEEPEST = 8
"""Trainings behind one another that are looked at."""


def warn_of_training_images(model: str, files: Iterable[Path]) -> int:
    """Say that images of an evaluation were in the training data of its model, by their bytes.

    Looked at are the data of the training whose folder holds the model, and those of the model that
    it began with. A picture that was saved anew is not recognized.

    Args:
        model: as for `load_policy`.
        files: the images evaluated on.

    Returns:
        How many were.
    """
    wanted = list(files)
    sizes = {file.stat().st_size for file in wanted}
    seen: set[bytes] = set()
    for data, root in _training_data(model):
        if not data.is_file():
            print(
                f"Note: {model} was trained on {data}, which is not there, so whether it has "
                "seen these images can't be told."
            )
            continue
        try:
            seen |= set(_image_hashes(data, root, sizes))
        except (UserError, pa.ArrowException) as problem:
            print(f"Note: the training data {data} of {model} can't be read: {problem}")
    both = [file for file in wanted if seen and bytes.fromhex(hash_file(file)) in seen]
    if both:
        some = ", ".join(file.name for file in both[:3])
        of = counted(len(wanted), "images")
        print(f"Warning: {model} was trained on {len(both)} of these {of} ({some}"
            f"{', ...' if len(both) > 3 else ''}). What is measured on them says nothing about new "
            "images: evaluate on others.")  # fmt: skip
    return len(both)


def _training_data(model: str) -> Iterator[tuple[Path, Path | None]]:
    """Files of training data, each with what its image paths are relative to."""
    for _ in range(DEEPEST):
        folder = Path(model)
        run = next((f for f in (folder, folder.parent) if (f / RECORD).is_file()), None)
        if not folder.is_dir() or run is None:
            return
        fields = read_fields(run)
        if not str(fields.get("command", "")).startswith("train "):
            return
        options: Mapping[str, Any] = fields.get("configuration", {})
        base = Path(fields.get("working_folder", ""))  # what relative paths began at
        root = options.get("images_root")
        for data in _data_files(options):
            yield base / data, base / root if isinstance(root, str) else None
        if not isinstance(options.get("model"), str) or options["model"] == model:
            return
        before = base / options["model"]
        model = str(before) if before.is_dir() else options["model"]


def _data_files(options: Mapping[str, object]) -> Iterator[str]:
    """What a training read its images from, as it was written."""
    for given in (options.get("data") or options.get("samples"), options.get("more_data")):
        for data in given if isinstance(given, list) else [given]:
            if isinstance(data, str):
                yield data


def _image_hashes(data: Path, root: Path | None, sizes: set[int]) -> Iterator[bytes]:
    """SHA-256 of the images that are as long as one that is looked for."""
    for image in _images(data):
        content = image.get("bytes") if isinstance(image, Mapping) else image
        if isinstance(content, bytes):
            if len(content) in sizes:
                yield hashlib.sha256(content).digest()
            continue
        path = image.get("path") if isinstance(image, Mapping) else image
        if isinstance(path, str):
            file = (root or data.parent) / path
            if file.is_file() and file.stat().st_size in sizes:
                yield bytes.fromhex(hash_file(file))


def _images(data: Path) -> Iterator[object]:
    if data.suffix.lower() == ".parquet" and "images" in pq.read_schema(data).names:
        for found in parquet_columns(data, ["images"]):
            images = found["images"]
            yield from images if isinstance(images, list) else ()
        return
    for _, row in raw_rows(data)[1]:
        if isinstance(row, Mapping):
            try:
                named, _ = with_own_names(row, "conversation")
            except RowError:
                continue  # training left it out
            images = named.get("images") or named.get("image") or []
            yield from images if isinstance(images, list) else [images]
