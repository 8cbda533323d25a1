"""`veridical label`: have people compare answers in a browser."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from veridical.runtime.errors import UserError
from veridical.runtime.files import check_file, hash_file, write_text_atomic
from veridical.runtime.progress import counted
from veridical.web.extra import require_web
from veridical.web.serving import Serving, address_of, open_port, print_addresses, serve

if TYPE_CHECKING:
    from veridical.web.label_store import LabelStore
    from veridical.web.sets import ViewedSet

GUIDELINES, LOCK = "guidelines.md", "labels.lock"
OURS = Path(__file__).with_name(GUIDELINES)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
ExportFormat = Literal["pairs", "label-studio", "argilla"]


def label(
    data: Path,
    out: Path,
    serving: Serving = Serving(),
    annotators: list[str] | None = None,
    overlap: float = 0.2,
    gold: Path | None = None,
    guidelines: Path | None = None,
    mark_weight: float = 2.0,
    images_root: Path | None = None,
    limit: int | None = None,
    export: ExportFormat | None = None,
    import_labels: Path | None = None,
    seed: int = 0,
) -> None:
    """Have people compare the two answers of each row of DATA, in a browser.

    First: which answer hallucinates more? If neither: which is more helpful? Sides and order are
    drawn by seed, and nothing says where an answer is from. Every click is on the disk before the
    page goes on; the same command goes on after any interruption. `--export pairs` (or the button
    on the overview page) writes what was decided as preference pairs.

    Args:
        data: preference pairs, or samples with two or more responses.
        out: folder for the labels: `labels.sqlite`, `guidelines.md`, and what is exported.
        serving: where the page is.
        annotators: their names, at the first start; one, called `me`, if not set. More can be named
            behind these later: they get the comparisons that everybody gets.
        overlap: share of the comparisons that every annotator gets; the rest go to one each.
        gold: pairs whose chosen answer is known to be better. Everybody gets all of them, mixed
            with the others; they measure the annotator and are not exported.
        guidelines: Markdown shown to the annotators, copied into `out`, where it can be edited
            while the page is open; ours if not set.
        mark_weight: span weight of words that were marked as wrong in a rejected answer; in a
            chosen one they get 0.
        images_root: what image paths are relative to and must stay under.
        limit: use only the first so many rows that can be compared.
        export: write what was labeled so far into `out`, and serve nothing.
        import_labels: take in labels from a JSON file that Label Studio or Argilla exported, and
            serve nothing.
        seed: seed of who gets what, orders and sides.
    """
    require_web("label")
    serving.check()
    names = None if annotators is None else _names(annotators)
    from veridical.web.sets import open_sets

    check_file(data)
    viewed = open_sets([data], images_root, None, None)[0]
    known = None if gold is None else open_sets([gold], None, None, None)[0]
    _check_kinds(viewed, known)
    store = _open_store(viewed, known, out, names, overlap, limit, seed, guidelines)
    from veridical.web.label_export import Exporting, export_labels

    exporting = Exporting(store, viewed, out, seed, mark_weight, known)
    if import_labels is not None:
        from veridical.web.label_tools import import_file

        with _alone(out):  # a server would not see what comes in
            print(import_file(store, import_labels))
    if export is not None:
        print(export_labels(exporting, export))
    if export is not None or import_labels is not None:
        return
    from veridical.web.guard import Access
    from veridical.web.label_app import Labeling, labeler

    with _alone(out), contextlib.closing(open_port(serving)) as listening:
        about = store.about
        tokens = _tokens(serving, [*store.dealt], about["secret"])
        app = labeler(
            Labeling(
                store, viewed, known, out / GUIDELINES, seed,
                lambda: export_labels(exporting, "pairs"),
            ),
            # Pages that were open when the server was stopped go on with the same key.
            Access(tokens, serving.root_path, _derived(about["secret"], "page")),
        )  # fmt: skip
        print_addresses("Label", address_of(serving, listening), tokens)
        serve(app, listening)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
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


def _names(names: list[str]) -> list[str]:
    for name in names:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"--annotators: {name[:60]!r} must be 1 to 40 English letters, digits, - or _."
            )
    if len(set(names)) < len(names):
        raise UserError("--annotators names somebody twice.")
    return names


def _check_kinds(viewed: ViewedSet, gold: ViewedSet | None) -> None:
    if viewed.kind not in ("preference", "sample"):
        raise UserError(
            f"{viewed.file} holds {viewed.kind} records; two answers are needed. Sample responses "
            "first: `veridical build sample`."
        )
    if gold is not None and gold.kind != "preference":
        raise UserError(f"--gold {gold.file} must hold preference pairs.")


def _tokens(serving: Serving, names: list[str], secret: str) -> dict[str, str]:
    """A token for everything and one for each annotator; none on this machine alone."""
    if serving.chosen_token() is None:
        return {}
    own = {_derived(secret, f"annotator {name}"): name for name in names}
    return {serving.token or secret: "", **own}


def _derived(secret: str, purpose: str) -> str:
    """A secret for one purpose, from which the others can't be computed."""
    return hashlib.sha256(f"{secret} {purpose}".encode()).hexdigest()[:40]


def _open_store(
    viewed: ViewedSet,
    gold: ViewedSet | None,
    out: Path,
    names: list[str] | None,
    overlap: float,
    limit: int | None,
    seed: int,
    guidelines: Path | None,
) -> LabelStore:
    from veridical.web.label_plan import Comparison, compared, dealt
    from veridical.web.label_store import FILE, LabelStore, create, is_made, plain

    path = out / FILE
    asked = {
        "data": hash_file(viewed.file),
        "gold": "" if gold is None else hash_file(gold.file),
        "overlap": plain(overlap),
        "limit": plain(limit),
        "seed": plain(seed),
    }
    if is_made(path):
        store = LabelStore(path)
        about = store.about
        if names is not None:
            asked["annotators"] = plain(names)
        changed = [name for name in asked if about.get(name) != asked[name]]
        added = _added(store, names or ())
        if changed == ["annotators"] and added:
            with _alone(out):
                _join(store, out, added, overlap, seed)
        elif changed:
            raise UserError(
                f"{out} was begun with other options ({', '.join(changed)}), which decide who sees "
                "what. Use the same, or another --out. Annotators can be added to "
                f"--annotators {' '.join(store.dealt)}, behind these."
            )
        return store
    names = names or ["me"]
    asked["annotators"] = plain(names)
    _claim(out)
    pairs, left = compared(viewed.rows(), seed, limit)
    if not pairs:
        why = f": row {left[0][0].number}: {left[0][1]}" if left else ""
        raise UserError(f"{viewed.file} has no row that can be compared{why}.")
    known = [] if gold is None else compared(gold.rows(), seed, None)[0]
    comparisons = [
        Comparison(task, row, first, second, task > len(pairs))
        for task, (row, first, second) in enumerate([*pairs, *known], start=1)
    ]
    out.mkdir(parents=True, exist_ok=True)
    if guidelines is not None:
        check_file(guidelines)
    shutil.copyfile(guidelines or OURS, out / GUIDELINES)
    if left:
        lines = "".join(f"row {row.number} ({row.id}): {reason}\n" for row, reason in left)
        write_text_atomic(out / "left_out.txt", lines)
        print(f"{counted(len(left), 'rows')} can't be compared: {out / 'left_out.txt'}")
    about = {**asked, "secret": secrets.token_urlsafe(32), "data_file": str(viewed.file.resolve())}
    create(path, about, comparisons, dealt(comparisons, names, overlap, seed))
    return LabelStore(path)


def _added(store: LabelStore, names: Sequence[str]) -> list[str]:
    """Names that come after those of the store; none if these are not the same ones."""
    known = json.loads(store.about["annotators"])
    return [*names[len(known) :]] if [*names[: len(known)]] == known else []


def _join(store: LabelStore, out: Path, added: list[str], overlap: float, seed: int) -> None:
    from veridical.web.label_plan import dealt_later

    dealt = dealt_later([*store.comparisons()], added, overlap, seed)
    if not all(dealt.values()):
        raise UserError(
            f"{out} has no comparison that everybody gets (--overlap {overlap:g}), so nothing is "
            f"left for {', '.join(added)}. Use another --out for them."
        )
    store.join(dealt)
    count = counted(len(dealt[added[0]]), "comparisons")
    print(f"{', '.join(added)}: {count} each, those that everybody gets; the others are dealt.")


def _claim(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder with --out.")
    ours = {
        "labels.sqlite",
        "labels.sqlite-wal",
        "labels.sqlite-shm",
        GUIDELINES,
        LOCK,
        "left_out.txt",
    }
    others = (
        sorted(path.name for path in out.iterdir() if path.name not in ours) if out.is_dir() else []
    )
    if others:
        raise UserError(f"{out} is not empty ({others[0]}). Name a new folder with --out.")
