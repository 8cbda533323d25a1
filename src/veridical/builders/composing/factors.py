"""What pairs say of their factors, and which of them `--keep` asks for."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from veridical.builders.composing.recipe import Candidate, Factors, entries, entry, source_of
from veridical.data.records import RecordSet
from veridical.runtime.errors import UserError

MOST, MOST_NAMES = 8, 30
"""Values of a factor, and names, that a message has at most (our choice)."""


def said_of(records: Sequence[RecordSet], factors: Factors) -> dict[str, Counter[str]]:
    """What pairs say of each factor that --keep names.

    Raises:
        UserError: none says anything of one of them; names what they do.
    """
    wanted = factors.wanted()
    said: dict[str, Counter[str]] = {name: Counter() for name in wanted}
    there: dict[str, None] = {}
    for number, one in enumerate(records if wanted else ()):
        for source in _sources(one):
            own = factors.of(number, source)
            there |= dict.fromkeys((*own, *entries(source)))
            for name in wanted:
                value = own.get(name) or entry(source, name)
                said[name].update([] if value is None else [value])
    for name, values in said.items():
        if not values:
            ends = {one.rpartition(".")[2]: one for one in reversed(there)} | {n: n for n in there}
            near = difflib.get_close_matches(name, ends, 1)
            hint = f" Did you mean {ends[near[0]]}?" if near else ""
            known = (
                f"They have {', '.join([*there][:MOST_NAMES])}."
                if there
                else "Their `source` says nothing."
            )
            raise UserError(f"--keep {name}: no pair has {name}.{hint} {known}")
    return said


def _sources(records: RecordSet) -> Iterator[dict[str, object]]:
    """What the `source` of each row says."""
    if "source" not in records.rows.column_names:
        yield from ({} for _ in range(len(records.rows)))
        return
    table = records.rows.select_columns(["source"]).with_format("arrow")[:]
    yield from (source_of(text) for text in table["source"].to_pylist())


def values_in_words(said: Mapping[str, Counter[str]]) -> str:
    """The commonest values of factors, as a sentence."""
    told = [
        f"{name} is {', '.join(f'{value} ({count})' for value, count in values.most_common(MOST))}"
        for name, values in said.items()
    ]
    return f" In the sets {'; '.join(told)}." if told else ""


def candidates_of(
    number: int, records: RecordSet, factors: Factors, not_kept: Counter[str]
) -> list[Candidate]:
    """The rows of a set that the conditions keep; others are counted by condition."""
    columns = [name for name in ("id", "source") if name in records.rows.column_names]
    found, wanted = [], factors.wanted()
    table = records.rows.select_columns(columns).with_format("arrow")[:]
    for index, row in enumerate(table.to_pylist()):
        source = source_of(row.get("source"))
        own = factors.of(number, source)
        missed = [
            name
            for name, values in wanted.items()
            if (own.get(name) or entry(source, name)) not in values
        ]
        if missed:
            not_kept["=".join((missed[0], "|".join(sorted(wanted[missed[0]]))))] += 1
        else:
            found.append(Candidate(number, index, row["id"], own))
    return found
