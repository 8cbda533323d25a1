"""A file's rows checked one after another: which are fit for use, and why the others are not."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from veridical.data.images import decode_image, resolve_image_path
from veridical.data.pixels import ImageError
from veridical.data.record_files import raw_rows
from veridical.data.record_flags import FlaggedRows, own_id
from veridical.data.record_kinds import MESSAGE_FIELDS, Kind, RowError
from veridical.data.record_names import IMAGES, image_column, image_marker, with_own_names
from veridical.data.record_rows import content_id, known_fields, normalize
from veridical.data.record_types import IMAGE_FIELDS, CheckedRow, ImageCell
from veridical.runtime.errors import UserError


@dataclass(frozen=True)
class RowProblem:
    """Why a row was left out.

    Attributes:
        row: counted from 1; for JSON Lines the number of the line.
        id: the row's id, or "" if it has none.
        field: the field that is wrong, or "row".
        reason: half a sentence.
        flagged: whether it was asked to be left out, whatever it holds; it is not a bad row.
    """

    row: int
    id: str
    field: str
    reason: str
    flagged: bool = False

    def __str__(self) -> str:
        name = f" ({self.id})" if self.id else ""
        return f"row {self.row}{name}, {self.field}: {self.reason}"


MISSING = "is missing"
NONE_FLAGGED = FlaggedRows()
READ_BY: dict[Kind, str] = {
    "conversation": "`build bdhs`, `build sample` and `train sft`",
    "preference": "`train dpo`, `train reward` and `train sft --kind preference`",
    "unpaired": "`train dpo --loss kto --kind unpaired`",
    "prompt": "`build sample` and `train online --kind prompt`",
    "sample": "`build rate`, `build annotate`, `build rank` and `build best`",
}
"""Commands that read records of a kind, for errors."""


_ASKED = (
    "`build sample`, `train online`, `train ppo`, `train rloo` and `train grpo` take them and ask "
    "their prompts without the answers"
)
TAKEN_TOO: dict[tuple[Kind, Kind], str] = {
    ("prompt", "conversation"): _ASKED,
    ("prompt", "preference"): _ASKED,
    ("conversation", "preference"): "`build corrupt`, `build distort`, `build sample` and "
    "`train sft` take them",
    ("conversation", "sample"): "`build corrupt` takes them",
    ("sample", "conversation"): "`build dropout` takes them",
    ("sample", "preference"): "`build dropout` takes them",
}
"""Commands that expect records of the first kind, and take the second by an option."""


def what_columns_say(path: Path, kind: Kind) -> str:
    """Name the columns of a file whose rows lack one, and the kind of record that they are.

    Returns:
        Sentences on a line of their own.
    """
    _, rows = raw_rows(path)
    first = next((row for _, row in rows if isinstance(row, Mapping)), None)
    if first is None:
        return ""
    columns = ", ".join(str(name) for name in first)
    kinds: tuple[Kind, ...] = get_args(Kind)
    other = next((one for one in kinds if one != kind and _reads_as(first, one)), None)
    needed = ", ".join(MESSAGE_FIELDS[kind])
    told = f"\nThe columns are {columns}; {kind} records need {needed}."
    if other is None:
        return told
    told += f" The rows are {other} records, which {READ_BY[other]} read."
    if (kind, other) in TAKEN_TOO:
        told += f" With --kind {other}, {TAKEN_TOO[kind, other]}."
    return told


def _reads_as(row: Mapping[str, object], kind: Kind) -> bool:
    try:
        normalize(with_own_names(row, kind)[0], kind)
    except RowError:
        return False
    return True


@dataclass
class Seen:
    """What the columns and texts of some rows showed.

    Attributes:
        others: columns that some row has and that its kind does not know by their names.
        used: those of them that some row is read from.
        held: those that seem to hold images of rows that have none, with the place.
        markers: of images, in the texts of rows that have none.
        has_images: whether any row has.
    """

    others: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    held: dict[str, str] = field(default_factory=dict)
    markers: list[str] = field(default_factory=list)
    has_images: bool = False

    @property
    def ignored(self) -> set[str]:
        """Columns that some row has and none is read from."""
        return self.others - self.used

    @property
    def lost(self) -> dict[str, str]:
        """Columns that nothing is read from and that seem to hold images, with the place."""
        return {name: place for name, place in self.held.items() if name not in self.used}

    def add(self, more: Seen) -> None:
        """Count what other rows showed."""
        self.others |= more.others
        self.used |= more.used
        self.held = more.held | self.held
        self.markers += more.markers
        self.has_images = self.has_images or more.has_images

    def refuse_lost_images(self, name: str, total: int, by_option: bool = False) -> None:
        """Stop where rows seem to have images and would be used without any.

        Args:
            name: of the file, for the message.
            total: how many rows it has.
            by_option: whether --columns can name the column.

        Raises:
            UserError: no row has images, but columns or texts say that they should.
        """
        if self.has_images:
            return
        if 2 * len(self.markers) > total:
            raise UserError(
                f"{name}: no row has images, but {len(self.markers)} of {total} have text like "
                f"{self.markers[0]!r} where a picture seems to belong. Put the pictures' "
                "paths into a column `images` and `<image>` there in the text, or take such text "
                "out."
            )
        if self.lost:
            one = min(self.lost.values())
            found = f"{name}: no row has images, but the column {one!r} seems to hold some."
            if by_option:
                named = shlex.quote(f"images={one}")
                raise UserError(
                    f"{found} Set --columns {named}, or --images drop to read the texts alone."
                )
            raise UserError(
                f"{found} Call it `images` (paths or bytes; {', '.join(IMAGES[1:6])}, ... are read "
                "too), or take it out if the rows are to be used without images."
            )


class RowChecker:
    """What must be remembered from row to row while a file is checked."""

    def __init__(
        self, kind: Kind, root: Path, foreign: bool = False, flagged: FlaggedRows = NONE_FLAGGED
    ) -> None:
        """Begin with a file's first row.

        Args:
            kind: of the rows.
            root: the folder that image paths are relative to.
            foreign: whether ids are left as they are, as those of foreign sets often name images:
                whoever puts the rows together numbers repeated ones. Otherwise a row with a
                repeated id can't be used.
            flagged: rows that are left out without a look at what they hold.
        """
        self.kind = kind
        self.flagged = flagged
        self.foreign = foreign
        self.root = root.resolve()
        self.seen = Seen()
        self.problems: list[RowProblem] = []
        self.numbers: list[int] = []  # of the usable rows, as `RowProblem.row` counts
        self.reads_files = False  # whether any row names the file of an image
        self._ids = Ids()
        self._good: dict[str, str] = {}  # images that were decoded: as named, and where
        self._good_bytes: set[bytes] = set()  # hashes of others that were

    def usable(self, chunk: list[tuple[int, object]]) -> list[CheckedRow]:
        """The rows of a chunk that are fit for use, in order; the others become problems."""
        chunk = [(number, row) for number, row in chunk if not self._leaves_out(number, row)]
        rows = [self._named(row) for _, row in chunk]
        with ThreadPoolExecutor() as pool:
            results = list(pool.map(self._checked, rows))
        good = []
        for (number, row), named, result in zip(chunk, rows, results, strict=True):
            try:
                if isinstance(result, RowError):
                    raise result
                record, content = result
                converses = isinstance(named, Mapping) and named.get("conversations") is not None
                record["id"] = self._unique_id(number, record["id"], content, converses)
                good.append(record)
                self.numbers.append(number)
            except RowError as bad:
                self.problems.append(RowProblem(number, own_id(row), bad.field, bad.reason))
        return good

    def _leaves_out(self, number: int, row: object) -> bool:
        """Whether a row was asked to be left out; it is noted among the problems."""
        reason = self.flagged.reason_for(number, row) if self.flagged else None
        if reason is not None:
            self.problems.append(RowProblem(number, own_id(row), "row", reason, flagged=True))
        return reason is not None

    def _named(self, row: object) -> object:
        """The row with its kind's names, after noting which columns are used and which not.

        What is wrong with the names comes instead.
        """
        if not isinstance(row, Mapping):
            return row
        try:
            named, used = with_own_names(row, self.kind, exact=self.foreign)
        except RowError as bad:
            return bad
        others = {name for name in row if row[name] is not None} - known_fields(self.kind) - used
        self.seen.used |= used
        self.seen.others |= others
        if named.get("images") or named.get("image"):
            self.seen.has_images = True
            return named
        for name in sorted(others - self.seen.held.keys()):
            place = image_column(name, row[name])
            if place is not None:
                self.seen.held[name] = place
        marker = image_marker(named)
        self.seen.markers += [] if marker is None else [marker[:60]]
        return named

    def _checked(self, row: object) -> tuple[CheckedRow, str] | RowError:
        if isinstance(row, RowError):
            return row
        try:
            record = normalize(row, self.kind)
            content = content_id(record)
            for field in IMAGE_FIELDS:
                if field in record:
                    record[field] = [self._checked_image(one, field) for one in record[field]]
        except RowError as bad:
            return bad
        return record, content

    def _checked_image(self, image: ImageCell, field: str) -> ImageCell:
        try:
            if image["bytes"]:
                # Many rows of a set may ask about one image.
                content = hashlib.sha256(image["bytes"]).digest()
                if content not in self._good_bytes:
                    decode_image(image["bytes"])
                    self._good_bytes.add(content)
                return image
            reference, self.reads_files = str(image["path"]), True
            if reference not in self._good:
                path = resolve_image_path(reference, self.root)
                _decode(path, reference)
                self._good[reference] = str(path)
        except ImageError as problem:
            raise RowError(field, str(problem)) from problem
        return {"bytes": None, "path": self._good[reference]}

    def _unique_id(self, number: int, own: str, content: str, may_repeat: bool) -> str:
        identity = own or content
        if self.foreign:
            return identity
        if not own or may_repeat:
            return self._ids.unused(identity, number)
        if not self._ids.take(identity, number):
            raise RowError("id", f"is that of row {self._ids.rows[identity]} too")
        return identity


class Ids:
    """Ids that are taken, with the row that has each."""

    def __init__(self) -> None:
        """Begin with none."""
        self.rows: dict[str, int] = {}
        self._repeats: Counter[str] = Counter()

    def take(self, id: str, row: int) -> bool:
        """Take an id for a row; false if another has it."""
        return self.rows.setdefault(id, row) == row

    def unused(self, id: str, row: int) -> str:
        """Take an id, with "-2", "-3" and so on behind it where another row has it."""
        named = id
        while named in self.rows:
            self._repeats[id] += 1
            named = f"{id}-{self._repeats[id] + 1}"
        self.rows[named] = row
        return named


def _decode(path: Path, reference: str) -> None:
    try:
        decode_image(path)
    except ImageError as problem:
        raise ImageError(f"{reference}: {problem}") from problem
