"""A labeling's folder: begun by the first command, and gone on with by every later one."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from veridical.runtime.errors import UserError
from veridical.runtime.files import check_file, hash_file, read_text, real_path, write_text_atomic
from veridical.runtime.progress import counted
from veridical.web.label_plan import Comparison, compared, dealt, dealt_later
from veridical.web.label_store import FILE, LabelStore, create, is_made, plain
from veridical.web.sets import ViewedSet, open_sets

GUIDELINES, LOCK = "guidelines.md", "labels.lock"
OURS = Path(__file__).with_name(GUIDELINES)
OVERLAP, SEED = 0.2, 0
PLAN = ("overlap", "limit", "seed")
"""Options that decide who sees what, beside the files."""


@dataclass(frozen=True)
class Asked:
    """What the command line says; None where it leaves something to what the folder knows.

    Attributes:
        data: the set that is compared.
        gold: pairs of which the better answer is known.
        overlap: share of the comparisons that everybody gets.
        limit: of the rows that are compared.
        seed: of who gets what, orders and sides.
        annotators: their names.
        images_root: what image paths of `data` are relative to and must stay under.
        guidelines: a file that the folder's is copied from.
    """

    data: Path
    gold: Path | None = None
    overlap: float | None = None
    limit: int | None = None
    seed: int | None = None
    annotators: Sequence[str] | None = None
    images_root: Path | None = None
    guidelines: Path | None = None


@dataclass(frozen=True)
class Begun:
    """A labeling that can be gone on with.

    Attributes:
        store: the log.
        viewed: the set that is compared.
        gold: the set of which the better answers are known.
        seed: that decides sides.
    """

    store: LabelStore
    viewed: ViewedSet
    gold: ViewedSet | None
    seed: int


def open_labeling(out: Path, asked: Asked) -> Begun:
    """Begin a labeling in a new folder, or go on with the one that is there.

    Raises:
        UserError: it can't be begun, or was begun with other options.
    """
    check_file(asked.data)
    return _go_on(out, asked) if is_made(out / FILE) else _begin(out, asked)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Be the only process that changes a labeling.

    Raises:
        UserError: another does.
    """
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{out} is open in another `veridical label`. Stop that first.") from error
    try:
        yield
    finally:
        lock.release()


def _begin(out: Path, asked: Asked) -> Begun:
    overlap = OVERLAP if asked.overlap is None else asked.overlap
    seed = SEED if asked.seed is None else asked.seed
    names = asked.annotators or ["me"]
    viewed, gold = _sets(asked.data, asked.images_root, asked.gold)
    _claim(out)
    pairs, left = compared(viewed.rows(), seed, asked.limit)
    if not pairs:
        why = f": row {left[0][0].number}: {left[0][1]}" if left else ""
        raise UserError(f"{viewed.file} has no row that can be compared{why}.")
    known = [] if gold is None else compared(gold.rows(), seed, None)[0]
    comparisons = [
        Comparison(task, row, first, second, task > len(pairs))
        for task, (row, first, second) in enumerate([*pairs, *known], start=1)
    ]
    if asked.guidelines is not None:
        check_file(asked.guidelines)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(asked.guidelines or OURS, out / GUIDELINES)
    if left:
        lines = "".join(f"row {row.number} ({row.id}): {reason}\n" for row, reason in left)
        write_text_atomic(out / "left_out.txt", lines)
        print(f"{counted(len(left), 'rows')} can't be compared: {out / 'left_out.txt'}")
    about = {
        "data": hash_file(viewed.file),
        "data_file": str(real_path(viewed.file)),
        "gold": "" if gold is None else hash_file(gold.file),
        "gold_file": "" if gold is None else str(real_path(gold.file)),
        "images_root": "" if asked.images_root is None else str(real_path(asked.images_root)),
        "overlap": plain(overlap),
        "limit": plain(asked.limit),
        "seed": plain(seed),
        "annotators": plain([*names]),
        "secret": secrets.token_urlsafe(32),
    }
    create(out / FILE, about, comparisons, dealt(comparisons, names, overlap, seed))
    return Begun(LabelStore(out / FILE), viewed, gold, seed)


def _go_on(out: Path, asked: Asked) -> Begun:
    store = LabelStore(out / FILE)
    about = store.about
    gold = _gold_file(out, asked, about)
    root = asked.images_root or (Path(known) if (known := about.get("images_root")) else None)
    viewed, known_better = _sets(asked.data, root, gold)
    _refuse_another_plan(out, asked, viewed.file, about)
    seed = int(json.loads(about["seed"]))
    added = _added(out, asked, json.loads(about["annotators"]))
    if added:
        with alone(out):
            _join(store, out, added, float(json.loads(about["overlap"])), seed)
    kept = out / GUIDELINES
    if asked.guidelines is not None and read_text(asked.guidelines) != read_text(kept):
        print(
            f"{kept} is shown, which is not what {asked.guidelines} says. Edit it, or replace it."
        )
    return Begun(store, viewed, known_better, seed)


def _sets(data: Path, root: Path | None, gold: Path | None) -> tuple[ViewedSet, ViewedSet | None]:
    """The set that is compared, and the one of which the better answers are known.

    Raises:
        UserError: they are of a kind without two answers.
    """
    viewed = open_sets([data], root, None, None)[0]
    if viewed.kind not in ("preference", "sample"):
        raise UserError(
            f"{viewed.file} holds {viewed.kind} records; two answers are needed. Sample responses "
            "first: `veridical build sample`."
        )
    known = None if gold is None else open_sets([gold], None, None, None)[0]
    if known is not None and known.kind != "preference":
        raise UserError(f"--gold {known.file} must hold preference pairs.")
    return viewed, known


def _refuse_another_plan(out: Path, asked: Asked, data: Path, about: Mapping[str, str]) -> None:
    """Refuse options that are not those with which the folder was begun.

    Raises:
        UserError: names the old and the new value of each.
    """
    if hash_file(data) != about["data"]:
        raise UserError(
            f"{data} is not what {out} was begun with{_named(about, 'data_file')}, or has changed "
            "since then. Name that file as it was, or another --out."
        )
    given = {"overlap": asked.overlap, "limit": asked.limit, "seed": asked.seed}
    told = []
    for name in PLAN:
        old, new = json.loads(about[name]), given[name]
        if new is not None and new != old:
            was = f"without --{name}" if old is None else f"with --{name} {old}"
            told.append(f"{was}, and --{name} {new} is asked for")
    if told:
        raise UserError(
            f"{out} was begun {'; '.join(told)}. This decides who sees what: leave it out, or name "
            "another --out."
        )


def _gold_file(out: Path, asked: Asked, about: Mapping[str, str]) -> Path | None:
    """The file of the gold pairs; that of the folder's beginning, if none is named.

    Raises:
        UserError: there was another one or none, or it is gone.
    """
    if asked.gold is not None:
        file = open_sets([asked.gold], None, None, None)[0].file  # a build's folder has one
        if not about["gold"]:
            raise UserError(
                f"{out} was begun without --gold, and --gold {asked.gold} is asked for. Leave it "
                "out, or name another --out."
            )
        if hash_file(file) != about["gold"]:
            known = _named(about, "gold_file")
            raise UserError(
                f"--gold {asked.gold} is not what {out} was begun with{known}, or has changed "
                "since then. Leave it out, or name another --out."
            )
        return asked.gold
    if not about["gold"]:
        return None
    if "gold_file" not in about:
        raise UserError(f"{out} was begun with gold pairs. Say where they are: --gold FILE.")
    file = Path(about["gold_file"])
    # Both sets may have been moved together.
    for path in (file, asked.data.parent / file.name):
        if path.is_file() and hash_file(path) == about["gold"]:
            return path
    raise UserError(
        f"The gold pairs that {out} was begun with are not in {file} any more. Say where they "
        f"are: --gold {file.name}."
    )


def _named(about: Mapping[str, str], name: str) -> str:
    """A file that the folder was begun with, in brackets; "" where an older version noted none."""
    return f" ({about[name]})" if name in about else ""


def _added(out: Path, asked: Asked, known: list[str]) -> list[str]:
    """Names that come after those that are known; none if none are given.

    Raises:
        UserError: the known ones are not the first.
    """
    names = [*(asked.annotators or known)]
    if names[: len(known)] != known:
        new = next((name for name in names if name not in known), "NAME")
        raise UserError(
            f"{out} was begun with --annotators {' '.join(known)}, and --annotators "
            f"{' '.join(names)} is asked for. Leave it out, or name somebody new at the end: "
            f"--annotators {' '.join(known)} {new}."
        )
    return names[len(known) :]


def _join(store: LabelStore, out: Path, added: list[str], overlap: float, seed: int) -> None:
    found = dealt_later([*store.comparisons()], added, overlap, seed)
    if not all(found.values()):
        raise UserError(
            f"{out} has no comparison that everybody gets (--overlap {overlap:g}), so nothing is "
            f"left for {', '.join(added)}. Use another --out for them."
        )
    store.join(found)
    count = counted(len(found[added[0]]), "comparisons")
    print(f"{', '.join(added)}: {count} each, those that everybody gets; the others are dealt.")


def _claim(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder with --out.")
    ours = {FILE, f"{FILE}-wal", f"{FILE}-shm", GUIDELINES, LOCK, "left_out.txt"}
    others = (
        sorted(path.name for path in out.iterdir() if path.name not in ours) if out.is_dir() else []
    )
    if others:
        raise UserError(f"{out} is not empty ({others[0]}). Name a new folder with --out.")
