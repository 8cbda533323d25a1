"""Finding the parts of runs on disk: what was built, trained, evaluated and compared."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from veridical.data.records import arrow_features
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.run_files import COMPARISON, LOG, SCORES, SUMMARY, Content, RunFile
from veridical.runtime.run_record import RECORD, RunFields, read_fields

Kind = Literal["build", "train", "eval", "compare", "summary", "other"]

# A run's parts lie at most this deep (seed/eval/arm/benchmark), and never in these folders.
DEEPEST = 5
SKIPPED = ("model", "images", "checkpoint", "adapter", "trials", "__pycache__")
# Folder names that say what a part is, not whose it is; so do the names of benchmarks.
GENERIC = ("train", "eval", "pairs", "build")


@dataclass(frozen=True)
class Part:
    """One folder of a run.

    Attributes:
        folder: where it is.
        root: the folder that was given on the command line.
        name: whose it is: the folders between `root` and `folder` that say something, such as
            "bdhs" for `eval/bdhs/BENCHMARK`.
        kind: which file it was recognized by.
        record: `run.json`, empty when there is none.
    """

    folder: Path
    root: Path
    name: str
    kind: Kind
    record: RunFields

    @property
    def benchmark(self) -> str:
        """The name of the benchmark of an evaluation; "" for any other part."""
        return SCORES.read(self.folder)["benchmark"]["name"] if self.kind == "eval" else ""

    def read(self, file: RunFile[Content]) -> Content | None:
        """A file of the folder, None when it is missing."""
        return file.read(self.folder) if (self.folder / file.name).is_file() else None


def find_parts(runs: Sequence[Path]) -> list[Part]:
    """All parts of the given runs, in the order they were made as far as `run.json` tells.

    Raises:
        UserError: a run does not exist or holds nothing that a run writes.
    """
    if not runs:
        raise UserError("Which run? Name one or more run folders: veridical report runs/aligned")
    parts: list[Part] = []
    for root in runs:
        found = list(_walk(root, root))
        if not found:
            raise UserError(_no_run(root))
        parts += found
    unique = {part.folder.resolve(): part for part in parts}
    generic = {*GENERIC, *(part.benchmark for part in unique.values())}
    named = [replace(part, name=_name(part, generic)) for part in unique.values()]
    told = _told_apart(named, generic)
    return sorted(told, key=lambda part: str(part.record.get("started_utc", "~")))


def _told_apart(parts: Sequence[Part], generic: Set[str]) -> list[Part]:
    """Parts, where two evaluations by the same benchmark that share a name get longer ones.

    Two benchmarks of one arm rightly share its name; two folders `bdhs` of two experiments do not.
    """
    alike: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        if part.kind == "eval":
            alike.setdefault((part.name, part.benchmark), []).append(part)
    longer: dict[Path, str] = {}
    for same in alike.values():
        words = [[w for w in p.folder.resolve().parts if w not in generic] for p in same]
        if len({tuple(own) for own in words}) < len(same):
            words = [list(part.folder.resolve().parts) for part in same]
        count = 1
        while len({tuple(own[-count:]) for own in words}) < len(same):
            count += 1
        if len(same) > 1:
            longer |= {p.folder: "/".join(w[-count:]) for p, w in zip(same, words, strict=True)}
    return [replace(part, name=longer.get(part.folder, part.name)) for part in parts]


def _no_run(root: Path) -> str:
    if not root.exists():
        return f"{root} does not exist. Name a folder that a veridical command wrote."
    if root.is_file():
        return f"{root} is a file; name the run folder that holds it."
    return (
        f"{root} is not a run: it holds neither run.json nor pairs, a training log, scores or a "
        "summary. Name a folder that `veridical align`, `build`, `train` or `eval` wrote."
    )


def _walk(folder: Path, root: Path, depth: int = 0) -> Iterator[Part]:
    if not folder.is_dir():
        return
    kind = _kind(folder)
    recorded = folder == root or (folder / RECORD).is_file()  # what is named is meant
    if kind is not None and not recorded and (why := _foreign(folder, kind)):
        print(f"{folder} is left out of the report: it has no {RECORD}, and {why}")
        kind = None
    if kind is not None:
        record = read_fields(folder) if (folder / RECORD).is_file() else {}
        yield Part(folder, root, folder.name, kind, record)
    if depth == DEEPEST:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: in_order(entry.name)):
        if entry.is_dir() and not entry.name.startswith((".", *SKIPPED)):
            yield from _walk(Path(entry.path), root, depth + 1)


def in_order(name: str) -> list[tuple[int, str]]:
    """A key by which 2 comes before 10."""
    words = re.split(r"([0-9]+)", name)
    return [(int(word) if word.isdecimal() else -1, word) for word in words]


def _kind(folder: Path) -> Kind | None:
    if (folder / "log.jsonl").is_file():
        return "train"
    if (folder / "pairs.parquet").is_file():
        return "build"
    if (folder / "scores.json").is_file():
        return "eval"
    if (folder / "comparison.json").is_file():
        return "compare"
    summary = folder / "summary.json"
    if not (folder / RECORD).is_file():  # a summary.json of another program may hold anything
        return None
    return "summary" if summary.is_file() and "arms" in SUMMARY.read(folder) else "other"


def _refusal(folder: Path, kind: Kind) -> str:
    match kind:
        case "train":
            return LOG.refusal(folder)
        case "eval":
            return SCORES.refusal(folder)
        case "compare":
            return COMPARISON.refusal(folder)
        case _:
            return ""


def _foreign(folder: Path, kind: Kind) -> str:
    """Why a folder without a record seems to be another program's; "" where a run may have it."""
    if kind == "build":
        return pairs_fault(folder / "pairs.parquet")
    return _refusal(folder, kind)


def pairs_fault(path: Path) -> str:
    """What is wrong with a build's pairs, as far as their columns tell; "" if nothing is."""
    try:
        found = pq.read_schema(path)
    except (OSError, ValueError) as error:
        return f"{path} cannot be read as Parquet: {reason_of(error)}."
    wanted = arrow_features("preference").arrow_schema
    for name in ("prompt", "chosen", "rejected"):
        if name not in found.names or found.field(name).type != wanted.field(name).type:
            return f"{path} has no column {name!r} of messages, as pairs that a run built have."
    return ""


def _name(part: Part, generic: Set[str]) -> str:
    """What tells this part from its siblings; the folder's own name when nothing else does."""
    inner = [word for word in part.folder.relative_to(part.root).parts if word not in generic]
    if inner:
        return "/".join(inner)
    own = part.folder.resolve()
    above = next((word for word in own.parts[::-1] if word not in generic), own.name)
    # Pairs are of no arm, and a folder `runs` above says nothing.
    return own.name if part.kind == "build" or above == "runs" else above
