"""`veridical view --export`: a sample of sets as one page that needs nothing else."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.data.pixels import ImageError
from veridical.report.pictures import ShownPicture, embed
from veridical.runtime.files import write_text_atomic
from veridical.runtime.pages import refuse_other_file
from veridical.runtime.progress import counted
from veridical.runtime.randomness import key
from veridical.runtime.versions import own_version
from veridical.web import pages
from veridical.web.cards import Card, card_of, sets_legend
from veridical.web.notes import Key, Notes, RowNote
from veridical.web.sets import ViewedSet
from veridical.web.shown_rows import ShownRow

MARK = '<p class="kicker">Veridical sample'
IMAGES_A_ROW = 4


@dataclass(frozen=True)
class SampledRow:
    """A row of the page."""

    card: Card
    pictures: list[ShownPicture]
    more_pictures: int
    note: RowNote | None


@dataclass(frozen=True)
class SampledSet:
    """A set of the page."""

    name: str
    total: int
    rows: list[SampledRow]


def write_sample(
    sets: Sequence[ViewedSet], notes: Sequence[Notes], out: Path, count: int, seed: int
) -> None:
    """Write the page.

    Args:
        sets: what is shown, each with `count` rows drawn by seed.
        notes: of each set.
        out: the file.
        count: rows of each set.
        seed: of the draw.

    Raises:
        UserError: there is another file, or a set can't be read.
    """
    refuse_other_file(out, MARK, "a page of `veridical view --export`")
    shown = []
    for one, own in zip(sets, notes, strict=True):
        known, here = own.all(), set[Key]()
        total, rows = draw_rows(_seen(one.rows(), known, here), count, seed)
        # What was noted of a row that has another number now is shown by its id.
        moved = {key[0]: note for key, note in known.items() if key not in here}
        sampled = [
            _sampled(one, row, known.get((row.id, row.number), moved.get(row.id))) for row in rows
        ]
        shown.append(SampledSet(one.name, total, sampled))
    text = pages.render(
        "sample.html.j2",
        {
            "sets": shown,
            "marks": sets_legend([row.card for one in shown for row in one.rows]),
            "style": pages.style(),
            "version": own_version(),
            "seed": seed,
        },
    )
    # Half a surrogate pair, which no file takes, becomes a question mark, as in the index.
    write_text_atomic(out, text.encode(errors="replace").decode())
    drawn = sum(len(one.rows) for one in shown)
    print(f"{counted(drawn, 'rows')} of {counted(sum(one.total for one in shown), 'rows')}: {out}")


def draw_rows(rows: Iterable[ShownRow], count: int, seed: int) -> tuple[int, list[ShownRow]]:
    """How many rows there are, and `count` of them drawn by seed, in the set's order."""
    total = 0
    best: list[tuple[int, int, ShownRow]] = []
    for total, row in enumerate(rows, start=1):  # noqa: B007
        place = -key(seed, "view", row.number)
        entry = (place, row.number, row)
        if len(best) < count:
            heapq.heappush(best, entry)
        elif place > best[0][0]:
            heapq.heapreplace(best, entry)
    return total, [row for _, _, row in sorted(best, key=lambda entry: entry[1])]


def _seen(
    rows: Iterable[ShownRow], known: Mapping[Key, RowNote], here: set[Key]
) -> Iterator[ShownRow]:
    """The rows, while the keys of the notes that are of one of them are put into `here`."""
    for row in rows:
        if (row.id, row.number) in known:
            here.add((row.id, row.number))
        yield row


def _sampled(one: ViewedSet, row: ShownRow, note: RowNote | None) -> SampledRow:
    pictures = []
    for image in row.images[:IMAGES_A_ROW]:
        try:
            pictures.append(embed(one.image(row, image)))
        except ImageError as error:
            pictures.append(ShownPicture("", 0, 0, False, str(error)))
    more = len(row.images) - len(pictures)
    return SampledRow(card_of(row, whole=True), pictures, more, note)
