"""What is viewed: a file of records, or the answers of one or several evaluations."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import pyarrow.parquet as pq

from veridical.data.images import resolve_image_path
from veridical.data.object_lists import judge_answer, match_image_id, name_objects, read_objects
from veridical.data.pixels import ImageError
from veridical.data.record_files import BUFFER, count_rows
from veridical.data.record_kinds import Kind
from veridical.data.vocabulary import read_vocabulary
from veridical.inspection.gap_file import read_gaps
from veridical.inspection.rows import recognize_kind
from veridical.report.folders import find_parts
from veridical.report.wording import joined
from veridical.runtime.errors import UserError
from veridical.runtime.files import check_file, real_path
from veridical.runtime.run_files import DETAILS, SCORES
from veridical.runtime.run_record import RECORD, read_fields
from veridical.web.answer_rows import (
    ANSWERS,
    by_benchmark,
    is_evaluation,
    run_names,
    shown_answers,
)
from veridical.web.record_rows import Marking, shown_records
from veridical.web.report_sets import is_report, report_sets
from veridical.web.shown_rows import Mark, ShownImage, ShownRow

FILES = ("pairs.parquet", "samples.parquet", "conversations.parquet", "records.parquet")
BESIDE = (SCORES.name, DETAILS.name)
"""What is read of an evaluation beside its answers."""
IMAGE_BATCH = 8


@dataclass(frozen=True)
class ViewedSet:
    """A set that can be viewed.

    Attributes:
        name: on the page.
        kind: what its rows are: a kind of record, or `answers`.
        files: what is read.
        root: the folder that image paths must stay under.
        marking: marks objects in answers; None where no list is known.
        marked_by: the files that `marking`, `gaps` and metrics are made of.
        gaps: log-probability gaps by the number of the row.
    """

    name: str
    kind: str
    files: tuple[Path, ...]
    root: Path | None
    record_kind: Kind | None = None
    marking: Marking | None = field(default=None, compare=False)
    marked_by: tuple[Path, ...] = ()
    gaps: Mapping[int, Mapping[str, float]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Note how the files are now."""
        assert self._stamps is not None

    @cached_property
    def _stamps(self) -> list[tuple[int, int] | None]:
        return [_stamp(path) for path in self.files]

    @property
    def change(self) -> str:
        """What to tell if a file is not what it was when the set was opened; "" if it is."""
        for path, old in zip(self.files, self._stamps, strict=True):
            if _stamp(path) != old:
                return f"{path} was changed since this page was started. Start the command again."
        return ""

    @property
    def file(self) -> Path:
        """The first file that is read."""
        return self.files[0]

    def rows(self) -> Iterator[ShownRow]:
        """Every row, one at a time."""
        if self.record_kind is None:
            yield from shown_answers([path.parent for path in self.files], self.root)
        else:
            for row in shown_records(self.file, self.record_kind, self.marking):
                own = self.gaps.get(row.number)
                yield replace(row, fields={**row.fields, **own}) if own else row

    def count(self) -> int | None:
        """How many rows there are, where that is known without reading them."""
        return count_rows(self.file) if self.record_kind is not None else None

    def key(self) -> str:
        """Changes with all that decides what is shown."""
        read = (*self.files, *self.marked_by)
        stamps = [f"{real_path(p)} {p.stat().st_mtime_ns} {p.stat().st_size}" for p in read]
        code = hashlib.sha256()
        for source in sorted(Path(__file__).parent.glob("*.py")):
            code.update(source.read_bytes())
        text = "\n".join([self.kind, str(self.root), code.hexdigest(), *stamps])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def image(self, row: ShownRow, image: ShownImage) -> bytes | Path:
        """The bytes of an image's file, or the file.

        Raises:
            ImageError: it is not a file under the set's folder, or the set was changed meanwhile.
        """
        if image.column:
            if self.change:  # its rows may be others now, and their images too
                raise ImageError(self.change)
            return self._held(row.number, image)
        reference = image.path or ""
        if self.root is not None:
            return resolve_image_path(reference, self.root)
        for root in self._roots:
            if Path(reference).is_relative_to(root):
                return resolve_image_path(reference, root)
        raise ImageError(f"{reference[:200]} is in none of the folders that the run names")

    @cached_property
    def _roots(self) -> list[Path]:
        """The folders that the images of evaluations may be in: the runs', and what those read."""
        found = [real_path(Path.cwd())]
        for folder in (path.parent for path in self.files):
            found.append(real_path(folder))
            if not (folder / RECORD).is_file():
                continue
            record = read_fields(folder)
            named = record.get("configuration", {}).values()
            for value in (value for value in named if isinstance(value, str) and value):
                path = real_path(Path(record.get("working_folder") or ".") / value)
                found += [path] if path.is_dir() else [path.parent] if path.is_file() else []
        return [path for path in found if path != path.parent]

    @cached_property
    def _metadata(self) -> pq.FileMetaData:
        return pq.read_metadata(self.file)

    @cached_property
    def _ends(self) -> list[int]:
        groups = range(self._metadata.num_row_groups)
        return list(accumulate(self._metadata.row_group(group).num_rows for group in groups))

    def _held(self, number: int, image: ShownImage) -> bytes:
        """The bytes that a row of Parquet holds; few rows around it are read."""
        group = bisect_right(self._ends, number - 1)
        place = number - 1 - (self._ends[group - 1] if group else 0)
        try:
            with pq.ParquetFile(self.file, metadata=self._metadata, buffer_size=BUFFER) as file:
                batches = file.iter_batches(IMAGE_BATCH, row_groups=[group], columns=[image.column])
                for batch in batches:
                    if place < len(batch):
                        cells = batch.column(0)[place].as_py()
                        cell = cells[image.number] if isinstance(cells, list) else cells
                        return bytes(cell["bytes"])
                    place -= len(batch)
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ImageError(f"row {number} can't be read any more: {error}") from error
        raise ImageError(f"row {number} is not in the file any more")


def open_sets(
    paths: Sequence[Path], root: Path | None, objects: Path | None, vocabulary: Path | None
) -> list[ViewedSet]:
    """The sets that the words of the command line name.

    Evaluations by one benchmark become one set together. A report's sets come first, in its order,
    so that its links lead to them.

    Raises:
        UserError: a path is none of them, or `objects` can't be read.
    """
    marking = None if objects is None else object_marking(objects, vocabulary)
    marked_by = tuple(path for path in (objects, vocabulary) if path is not None)
    found: list[ViewedSet] = []
    for path in filter(is_report, paths):
        for folders in report_sets(path):
            found += _report_set(folders, root, marking, marked_by)
    own = [path for path in paths if not is_report(path)]
    return found + _open_sets(own, root, marking, marked_by)


def _open_sets(
    paths: Sequence[Path], root: Path | None, marking: Marking | None, marked_by: tuple[Path, ...]
) -> list[ViewedSet]:
    evaluations = [path for path in paths if path.is_dir() and is_evaluation(path)]
    answered = {own[0]: (title, own) for title, own in by_benchmark(evaluations).items()}
    found: list[ViewedSet] = []
    for path in paths:
        if path in answered:
            found.append(_answers(*answered[path], root))
        elif path not in evaluations:
            file = _record_file(path)
            kind = recognize_kind(file)
            own = file.parent if root is None else root
            name = path.name if path.is_dir() else file.name
            found.append(ViewedSet(name, kind, (file,), own, kind, marking, marked_by))
    return found


def _report_set(
    folders: Sequence[Path],
    root: Path | None,
    marking: Marking | None,
    marked_by: tuple[Path, ...],
) -> list[ViewedSet]:
    """What one link of a report leads to: always one set, whatever its runs call their benchmark.

    Two would shift all links behind it.
    """
    if all(map(is_evaluation, folders)):
        return [_answers(joined([*filter(None, by_benchmark(folders))]), folders, root)]
    return _open_sets(folders, root, marking, marked_by)


def _answers(title: str, folders: Sequence[Path], root: Path | None) -> ViewedSet:
    """The answers of evaluations by one benchmark."""
    files = tuple(folder / ANSWERS for folder in folders)
    runs = joined(run_names(folders))
    beside = [folder / name for folder in folders for name in BESIDE]
    read = tuple(path for path in beside if path.is_file())
    return ViewedSet(f"{title}: {runs}" if title else runs, "answers", files, root, marked_by=read)


def with_gaps(viewed: ViewedSet, path: Path) -> ViewedSet:
    """A set with the gaps of a file that `veridical data describe --model` wrote.

    Raises:
        UserError: it has none of this set.
    """
    if viewed.kind != "preference":
        raise UserError(f"--gaps is for preference pairs; {viewed.file} holds {viewed.kind} rows.")
    marked_by = (*viewed.marked_by, path)
    return replace(viewed, gaps=read_gaps(path, viewed.file), marked_by=marked_by)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _record_file(path: Path) -> Path:
    if not path.is_dir():
        check_file(path)
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    below = [part.folder for part in find_parts([path]) if part.kind in ("build", "eval")]
    told = ", ".join(map(str, below[:6]))
    raise UserError(
        f"{path} holds no rows to view ({', '.join((*FILES, ANSWERS))})."
        + (f" Name one of {told}." if told else "")
    )


def object_marking(objects: Path, vocabulary: Path | None) -> Marking:
    """What marks the objects that an answer names: those that are listed and those that are not.

    Raises:
        UserError: a file is not of its form.
    """
    words = read_vocabulary(vocabulary)
    listed = name_objects(read_objects(objects), words)

    def marking(text: str, names: Sequence[str]) -> tuple[Mark, ...]:
        found = (match_image_id(name, listed) for name in names)
        image = next((one for one in found if one is not None), None)
        if image is None:
            return ()
        mentions = judge_answer(image, text, listed[image], words)["mentions"]
        return tuple(
            Mark(m["start"], m["end"], "made_up" if m["hallucinated"] else "real") for m in mentions
        )

    return marking
