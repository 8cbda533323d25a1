"""What is compared by whom: the comparisons of a set, and the order in which each sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from veridical.runtime.randomness import generator, key
from veridical.web.shown_rows import ShownRow


@dataclass(frozen=True)
class Comparison:
    """Two answers of a row.

    Attributes:
        task: its number, counted from 1.
        row: the row that is shown.
        first: name of one answer, such as `chosen`.
        second: of the other.
        gold: whether it is from the set of which the better answer is known: there, `first`.
    """

    task: int
    row: ShownRow
    first: str
    second: str
    gold: bool

    def text(self, side: str) -> str:
        """The text of `first` or `second`."""
        name = self.first if side == "first" else self.second
        return next(answer.text for answer in self.row.answers if answer.name == name)


def compared(
    rows: Iterator[ShownRow], seed: int, limit: int | None
) -> tuple[list[tuple[ShownRow, str, str]], list[tuple[ShownRow, str]]]:
    """Two answers of each row, and the rows that can't be compared, with the reason.

    Of more than two responses, two are drawn by seed.

    Args:
        rows: of pairs or samples.
        seed: of the draws.
        limit: use only the first so many that can be compared.
    """
    found: list[tuple[ShownRow, str, str]] = []
    left: list[tuple[ShownRow, str]] = []
    for row in rows:
        if limit is not None and len(found) == limit:
            break
        if row.problem:
            left.append((row, row.problem))
            continue
        names = [answer.name for answer in row.answers]
        if names[:2] == ["chosen", "rejected"]:
            names = names[:2]
        elif len(names) > 2:
            drawn = generator(seed, "two", row.id).permutation(len(names))[:2]
            names = [names[place] for place in sorted(int(one) for one in drawn)]
        texts = {answer.name: answer.text.strip() for answer in row.answers}
        if len(names) < 2:
            left.append((row, "it has only one answer"))
        elif texts[names[0]] == texts[names[1]]:
            left.append((row, "its two answers are the same"))
        else:
            found.append((row, names[0], names[1]))
    return found, left


def dealt(
    comparisons: Sequence[Comparison], annotators: Sequence[str], overlap: float, seed: int
) -> dict[str, list[int]]:
    """The tasks of each annotator, in the order in which they come.

    Gold comparisons and a share of the others go to everybody, the rest to one each.

    Args:
        comparisons: all of them.
        annotators: their names.
        overlap: the share of comparisons that everybody gets, 0 to 1.
        seed: of who gets what, and of the orders.
    """
    gold = [one.task for one in comparisons if one.gold]
    others = sorted(
        (one.task for one in comparisons if not one.gold), key=lambda t: key(seed, "deal", t)
    )
    shared = round(overlap * len(others))
    found = {}
    for place, name in enumerate(annotators):
        own = [*gold, *others[:shared], *others[shared + place :: len(annotators)]]
        found[name] = sorted(own, key=lambda task: key(seed, "order", name, task))
    return found


def dealt_later(
    comparisons: Sequence[Comparison], names: Sequence[str], overlap: float, seed: int
) -> dict[str, list[int]]:
    """The tasks of annotators who come later: those that everybody gets, as the rest is dealt."""
    everybody = dealt(
        comparisons, ("", "-"), overlap, seed
    )  # the tasks that any two have in common
    common = set(everybody[""]) & set(everybody["-"])
    return {name: sorted(common, key=lambda task: key(seed, "order", name, task)) for name in names}


def is_turned(seed: int, annotator: str, task: int) -> bool:
    """Whether an annotator sees `second` on the left."""
    return bool(key(seed, "side", annotator, task) & 1)


def exchanged(dealt: Mapping[str, Sequence[int]], gold: Set[int], seed: int) -> set[int]:
    """The comparisons whose two answers change names when agreement is computed.

    In most sets nearly everybody prefers `first`, the chosen answer, so agreement on `first` would
    be what chance gives. Names that are drawn anew for each comparison, the same for all
    annotators, carry no such expectation. They are drawn for half of the comparisons that
    two or more have, so that both names are equally frequent (our choice).

    Args:
        dealt: the comparisons of each annotator.
        gold: comparisons that do not count.
        seed: of the draw.
    """
    times = Counter(task for tasks in dealt.values() for task in tasks if task not in gold)
    shared = [task for task, count in times.items() if count > 1]
    return set(sorted(shared, key=lambda task: key(seed, "orientation", task))[::2])
