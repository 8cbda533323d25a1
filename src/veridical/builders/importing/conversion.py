"""The rows of a foreign set on their way to records, some at a time, with what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from veridical.builders._row_parts import file_state
from veridical.data.importers.importing import converted, imported, whole_rows
from veridical.data.importers.recognize import Recognized
from veridical.data.importers.rules import Rules
from veridical.data.importers.sources import Place, Source
from veridical.data.messages import text_of
from veridical.data.record_checks import RowChecker, Seen
from veridical.data.record_files import chunks
from veridical.data.record_kinds import Kind, LeftOutError, PartError, RowError
from veridical.data.record_names import with_own_names
from veridical.data.record_rows import normalize
from veridical.data.record_types import IMAGE_FIELDS, CheckedRow
from veridical.runtime.progress import track
from veridical.runtime.run_files import SkippedRow


@dataclass
class ImportReport:
    """What came of some rows.

    Attributes:
        rows: how many there were, after those of one prompt were put together.
        made: records that came of them.
        skipped: rows of `skipped.jsonl` that stand for a record that can't be made.
        by_rule: those that stand for a row that the set's own rule leaves out.
        parts: those that stand for a response or a rating that a record was made without.
        silent: rows whose last question has no text.
        seen: what columns and texts showed.
        files: the state of each image's file that a record names.
    """

    rows: int = 0
    made: int = 0
    skipped: list[SkippedRow] = field(default_factory=list)
    by_rule: list[SkippedRow] = field(default_factory=list)
    parts: list[SkippedRow] = field(default_factory=list)
    silent: list[SkippedRow] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    files: dict[str, list[int] | None] = field(default_factory=dict)

    def add(self, more: ImportReport) -> None:
        """Count what came of other rows; the files of images are not kept."""
        self.rows += more.rows
        self.made += more.made
        self.seen.add(more.seen)
        for name in ("skipped", "by_rule", "parts", "silent"):
            getattr(self, name).extend(getattr(more, name))

    @property
    def holds(self) -> bool:
        """Whether the same rows would come out again: no file of an image has changed or come."""
        lost = any(row["field"] in IMAGE_FIELDS for row in self.skipped)
        return not lost and all(file_state(name) == was for name, was in self.files.items())


@dataclass
class Conversion:
    """A foreign set, and how its rows are converted.

    Attributes:
        source: where the rows are.
        found: what they were taken for.
        given: the user's own rules.
        wanted: the kind that was asked for.
        images_root: what image paths are relative to, if not the source's folder.
        limit: read only so many rows.
        read: rows that were read so far.
        report: what came of them.
    """

    source: Source
    found: Recognized
    given: Rules
    wanted: Kind | None = None
    images_root: Path | None = None
    limit: int | None = None
    read: int = 0
    report: ImportReport = field(default_factory=ImportReport)

    def __post_init__(self) -> None:
        self.kind: Kind = self.wanted or self.found.taken_for.kind
        self.rules = self.given.over(self.found.taken_for.rules)
        self.root = (self.images_root or self.source.root).resolve()

    def made_of(self, row: object) -> list[dict[str, object] | RowError]:
        """What comes of one row alone, not checked."""
        one, place = self.found.taken_for, Place(self.source.name, 1)
        return [made for _, made in imported([(place, row)], one, self.rules, self.kind)]

    def reason_of(self, row: object) -> RowError | None:
        """Why a row alone gives no record; None if it gives one. Images are not looked for."""
        reason = RowError("row", "nothing comes of it")
        for made in self.made_of(row):
            try:
                if isinstance(made, RowError):
                    raise made
                normalize(with_own_names(made, self.kind, exact=True)[0], self.kind)
            except RowError as error:
                reason = error
            else:
                return None
        return reason

    def records(
        self, known: Callable[[int], ImportReport | None] = lambda number: None
    ) -> Iterator[tuple[int, ImportReport, list[CheckedRow] | None]]:
        """Convert the set, some rows at a time.

        Args:
            known: what came of a part in an earlier run, by its number.

        Yields:
            A part's number, what came of it, and its records, with ids that may repeat; None for
            a part that is known and as it was.

        Raises:
            UserError: at the end, if images seem to be lost.
        """
        checker = RowChecker(self.kind, self.root, foreign=True)
        one = self.found.taken_for
        for number, some in enumerate(chunks(whole_rows(self._counted(), one, self.rules))):
            report, made = known(number), None
            if report is None or report.rows != len(some) or not report.holds:
                report, made = self._convert(some, checker)
            self.report.add(report)
            yield number, report, made
        if self.rules.images != "drop":
            self.report.seen.refuse_lost_images(self.source.name, self.read, True)

    def recipe(self) -> dict[str, object]:
        """What decides the records, besides the source's content."""
        rules = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.rules).items()}
        one = self.found.taken_for
        # A limit can cut through the rows of a prompt, and then changes the record they make.
        cut = {"limit": self.limit} if one.together and self.limit is not None else {}
        return {"set": one.name, "kind": self.kind, "rules": rules, **cut}

    def _counted(self) -> Iterator[tuple[Place, object]]:
        rows = islice(self.source.rows(), self.limit)
        total = self.source.total()
        if self.limit is not None:
            total = min(self.limit, total or self.limit)
        for place, row in track(rows, f"importing {self.source.name}", total):
            self.read += 1
            yield place, row

    def _convert(
        self, rows: list[tuple[Place, object]], checker: RowChecker
    ) -> tuple[ImportReport, list[CheckedRow]]:
        report, records = ImportReport(rows=len(rows)), list[CheckedRow]()
        checker.seen = report.seen
        for placed in chunks(converted(rows, self.found.taken_for, self.rules, self.kind)):
            good = checker.usable([(number, made) for number, (_, made) in enumerate(placed)])
            for problem in checker.problems:
                place, made = placed[problem.row]
                kept = report.by_rule if isinstance(made, LeftOutError) else report.skipped
                kept = report.parts if isinstance(made, PartError) else kept
                kept.append(_listed(place, problem.id, problem.field, problem.reason))
            for number, record in zip(checker.numbers, good, strict=True):
                if not _asks(record):
                    reason = "the last question has no text"
                    place = placed[number][0]
                    report.silent.append(_listed(place, record["id"], "prompt", reason))
            checker.problems.clear()
            checker.numbers.clear()
            records += good
        report.made = len(records)
        report.files = {path: file_state(path) for path in sorted(_files_of(records))}
        return report, records


def _files_of(records: list[CheckedRow]) -> set[str]:
    cells = [cell for one in records for name in IMAGE_FIELDS for cell in one.get(name, ())]
    return {str(cell["path"]) for cell in cells if cell["path"] and not cell["bytes"]}


def _asks(record: CheckedRow) -> bool:
    """Whether the last question has a text."""
    messages = record.get("prompt") or record.get("messages") or []
    asked = next((one for one in reversed(messages) if one["role"] == "user"), None)
    return asked is None or bool(text_of(asked).strip())


def _listed(place: Place, id: str, field: str, reason: str) -> SkippedRow:
    return {"id": id, "file": place.file, "row": place.row, "field": field, "reason": reason}
