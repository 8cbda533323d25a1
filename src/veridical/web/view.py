"""`veridical view`: look at sets in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from veridical.builders.options import ObjectFiles
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted
from veridical.web.extra import require_web
from veridical.web.serving import Serving, address_of, open_port, print_addresses, serve

if TYPE_CHECKING:
    from veridical.web.viewer import Opened


def view(
    sets: list[Path],
    serving: Serving = Serving(),
    object_files: ObjectFiles = ObjectFiles(),
    images_root: Path | None = None,
    notes: Path | None = None,
    gaps: Path | None = None,
    export: Path | None = None,
    count: int = 50,
    seed: int = 0,
) -> None:
    """Show SETS in a browser: pairs, samples, conversations, or answers of evaluations.

    Images, prompt and answers stand side by side, with the words in which they differ marked. Rows
    can be searched, filtered, sorted, flagged and noted. Flags are kept in `SET.notes.jsonl` beside
    the set; `veridical build compose --without-flagged` reads that file. Several evaluations of one
    benchmark stand side by side. The page of a report opens all answers and pairs it links to.

    Args:
        sets: files of records, folders of builds or evaluations, or the page of a report.
        serving: where the page is.
        object_files: what is in the images, to mark what answers make up.
        images_root: what image paths are relative to and must stay under; the set's own folder if
            not set, and for evaluations where their records say.
        notes: file of the flags and notes, of one set.
        gaps: log-probability gaps of pairs, as `veridical data describe --model` writes them.
        export: write a sample as one self-contained HTML file, and serve nothing.
        count: rows of that sample.
        seed: seed of that sample.
    """
    require_web("view")
    if not sets:
        raise UserError("No set is named; give a file of records or a run's folder.")
    serving.check()
    from veridical.web.notes import Notes, notes_path
    from veridical.web.sets import open_sets, with_gaps

    found = open_sets(sets, images_root, object_files.objects, object_files.vocabulary)
    if gaps is not None:
        found = [with_gaps(one, gaps) for one in found]
    if notes is not None and len(found) > 1:
        raise UserError("--notes is for one set. Name one, or leave --notes out.")
    kept = [Notes(notes or notes_path(one.file), one.file) for one in found]
    if export is not None:
        from veridical.web.sample_page import write_sample

        write_sample(found, kept, export, count, seed)
        return
    listening = open_port(serving)
    from veridical.web.guard import Access
    from veridical.web.index import open_index
    from veridical.web.viewer import Opened, viewer

    opened: list[Opened] = []
    try:
        for one, own in zip(found, kept, strict=True):
            index = open_index(one.key())
            opened.append(Opened(one, index, own))
            index.start(one.rows())
            own.hash_ahead()
            total = one.count()
            print(f"{one.name}: {counted(total, 'rows')}" if total is not None else one.name)
        token = serving.chosen_token()
        tokens = {} if token is None else {token: ""}
        app = viewer(opened, Access(tokens, serving.root_path))
        print_addresses("View", address_of(serving, listening), tokens, serving.root_path)
        serve(app, listening)
    finally:
        listening.close()
        for one_opened in opened:
            one_opened.index.close()
