"""What a check found: in which row, what is wrong, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from veridical.data.record_files import stream_json_lines
from veridical.runtime.files import hash_file

Level = Literal["error", "warning"]
Repair = Literal["", "drop", "strip", "rename"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        check: the name of the check.
        level: `error` where commands leave the row out, or a benchmark's scores would be invalid;
            `warning` where the row can be used and deserves a look.
        row: counted from 1, in JSON Lines the number of the line; 0 for the set as a whole.
        id: the row's id, or "".
        what: is wrong, half a sentence.
        fix: what to do about it.
        repair: what `--fix` does: drops the row, strips its answers' ends, or renames its id;
            "" where nothing can be done safely.
    """

    check: str
    level: Level
    row: int
    id: str
    what: str
    fix: str
    repair: Repair = ""

    @property
    def place(self) -> str:
        """The row in words."""
        if not self.row:
            return "the set"
        return f"row {self.row}" + (f" ({self.id})" if self.id else "")


def finding_lines(file: Path, found: Iterable[Finding]) -> Iterator[dict[str, object]]:
    """A line for each finding; the set is known by what its file holds."""
    about = {"set": str(file), "sha256": hash_file(file)}
    return (about | asdict(finding) for finding in found)


def are_findings(path: Path) -> bool:
    """Whether a file is one of findings: empty, where nothing was found, or rows of them."""
    if not path.stat().st_size:
        return True
    first = next((row for _, row in stream_json_lines(path)), None)
    names = {"set", "sha256", *(field.name for field in fields(Finding))}
    return isinstance(first, Mapping) and first.keys() == names


def by_check(findings: Iterable[Finding]) -> dict[tuple[Level, str], list[Finding]]:
    """Findings by level and check, errors first, in the order in which they were found."""
    groups: dict[tuple[Level, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.level, finding.check), []).append(finding)
    return dict(sorted(groups.items(), key=lambda item: item[0][0] != "error"))
