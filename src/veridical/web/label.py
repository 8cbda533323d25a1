"""`veridical label`: have people compare answers in a browser."""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from veridical.runtime.errors import UserError
from veridical.runtime.ranges import COUNT
from veridical.web.extra import require_web
from veridical.web.serving import Serving, address_of, open_port, print_addresses, serve

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
ExportFormat = Literal["pairs", "label-studio", "argilla"]


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """What becomes of labels.

    Attributes:
        export: write what was labeled so far into `out`, and serve nothing.
        min_votes: annotators who must prefer an answer before it is exported as chosen, beside
            being more than half of those who could tell. Of the comparisons that only one annotator
            gets (see `overlap`), 2 exports none.
        mark_weight: span weight of words that were marked as wrong in a rejected answer; in a
            chosen one they get 0.
    """

    export: ExportFormat | None = None
    min_votes: Annotated[int, COUNT] = 1
    mark_weight: float = 2.0


def label(
    data: Path,
    out: Path,
    serving: Serving = Serving(),
    annotators: list[str] | None = None,
    overlap: float | None = None,
    gold: Path | None = None,
    guidelines: Path | None = None,
    deciding: Deciding = Deciding(),
    images_root: Path | None = None,
    limit: int | None = None,
    import_labels: Path | None = None,
    seed: int | None = None,
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
        overlap: share of the comparisons that every annotator gets; the rest go to one each. 0.2 if
            not set, and later what `out` was begun with, as for `gold`, `images_root`, `limit` and
            `seed`.
        gold: pairs whose chosen answer is known to be better. Everybody gets all of them, mixed
            with the others; they measure the annotator and are not exported.
        guidelines: Markdown shown to the annotators, copied into `out`, where it can be edited
            while the page is open; ours if not set.
        deciding: what becomes of labels.
        images_root: what image paths are relative to and must stay under.
        limit: use only the first so many rows that can be compared.
        import_labels: take in labels from a JSON file that Label Studio or Argilla exported, and
            serve nothing.
        seed: seed of who gets what, orders and sides; 0 if not set.
    """
    require_web("label")
    serving.check()
    export = deciding.export
    names = None if annotators is None else _names(annotators)
    from veridical.web.label_begin import GUIDELINES, Asked, alone, open_labeling
    from veridical.web.label_export import Exporting, export_labels
    from veridical.web.label_store import FILE, is_made

    if export == "pairs" and import_labels is None and not is_made(out / FILE):
        raise UserError(f"{out} has no labels to export. Name the --out that they were given in.")
    asked = Asked(data, gold, overlap, limit, seed, names, images_root, guidelines)
    begun = open_labeling(out, asked)
    store = begun.store
    exporting = Exporting(
        store, begun.viewed, out, begun.seed, deciding.mark_weight, begun.gold, deciding.min_votes
    )
    if import_labels is not None:
        from veridical.web.label_tools import import_file

        with alone(out):  # a server would not see what comes in
            print(import_file(store, import_labels))
    if export is not None:
        print(export_labels(exporting, export))
    if export is not None or import_labels is not None:
        return
    from veridical.web.guard import Access
    from veridical.web.label_app import Labeling, labeler

    with alone(out), contextlib.closing(open_port(serving)) as listening:
        about = store.about
        tokens = _tokens(serving, [*store.dealt], about["secret"])
        app = labeler(
            Labeling(
                store, begun.viewed, begun.gold, out / GUIDELINES, begun.seed,
                lambda: export_labels(exporting, "pairs"),
            ),
            # Pages that were open when the server was stopped go on with the same key.
            Access(tokens, serving.root_path, _derived(about["secret"], "page")),
        )  # fmt: skip
        print_addresses("Label", address_of(serving, listening), tokens, serving.root_path)
        serve(app, listening)


def _names(names: list[str]) -> list[str]:
    for name in names:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"--annotators: {name[:60]!r} must be 1 to 40 English letters, digits, - or _."
            )
    if len({name.lower() for name in names}) < len(names):
        raise UserError("--annotators names somebody twice; letter case alone tells nobody apart.")
    return names


def _tokens(serving: Serving, names: list[str], secret: str) -> dict[str, str]:
    """A token for everything and one for each annotator; none on this machine alone."""
    if serving.chosen_token() is None:
        return {}
    own = {_derived(secret, f"annotator {name}"): name for name in names}
    return {serving.token or secret: "", **own}


def _derived(secret: str, purpose: str) -> str:
    """A secret for one purpose, from which the others can't be computed."""
    return hashlib.sha256(f"{secret} {purpose}".encode()).hexdigest()[:40]
