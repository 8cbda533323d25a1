"""What pairs say of their factors, and which of them `--keep` asks for."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from veridical.builders.composing.recipe import Candidate, Factors, entries, entry, source_of
from veridical.data.records import RecordSet
from veridical.runtime.errors import UserError

MOST, MOST_NAMES = 8, 30
"""Values of a factor, and names, that a message has at most (our choice)."""


@dataclass(frozen=True, slots=True)
class PairFactors:
    """What one pair says of its factors.

    Attributes:
        own: the four factors that every pair may have; those that nobody says are left out.
        kept_by: of each name that --keep gives, the pair's value; None where it has none.
    """

    own: Mapping[str, str]
    kept_by: tuple[str | None, ...]


def read_factors(
    records: Sequence[RecordSet], factors: Factors
) -> tuple[list[list[PairFactors]], dict[str, Counter[str]]]:
    """What each pair of each set says, and how often each value of --keep's names is said.

    Raises:
        UserError: no pair says anything of one of these names; names what they do.
    """
    wanted = factors.wanted()
    said: dict[str, Counter[str]] = {name: Counter() for name in wanted}
    there: dict[str, None] = {}
    found: list[list[PairFactors]] = []
    for number, one in enumerate(records):
        pairs = []
        for source in _sources(one):
            own = factors.of(number, source)
            kept_by = tuple(own.get(name) or entry(source, name) for name in wanted)
            pairs.append(PairFactors(own, kept_by))
            for name, value in zip(wanted, kept_by, strict=True):
                said[name].update([] if value is None else [value])
            if wanted:
                there |= dict.fromkeys((*own, *entries(source)))
        found.append(pairs)
    for name, values in said.items():
        if not values:
            raise UserError(f"--keep {name}: no pair has {name}.{_known(name, there)}")
        if len(wanted[name]) > 1 and (unknown := sorted(wanted[name] - values.keys())):
            print(f"--keep: no pair has {', '.join(f'{name}={value}' for value in unknown)}.")
    return found, said


def _known(name: str, there: Mapping[str, None]) -> str:
    """Names that pairs have, and the one that is nearest."""
    if not there:
        return " Their `source` says nothing."
    ends = {one.rpartition(".")[2]: one for one in reversed([*there])} | {n: n for n in there}
    near = difflib.get_close_matches(name, ends, 1)
    hint = f" Did you mean {ends[near[0]]}?" if near else ""
    return f"{hint} They have {', '.join([*there][:MOST_NAMES])}."


def _sources(records: RecordSet) -> Iterator[dict[str, object]]:
    """What the `source` of each row says."""
    if "source" not in records.rows.column_names:
        yield from ({} for _ in range(len(records.rows)))
        return
    table = records.rows.select_columns(["source"]).with_format("arrow")[:]
    yield from (source_of(text.as_py()) for text in table["source"])


def values_in_words(said: Mapping[str, Counter[str]]) -> str:
    """The commonest values of factors, as a sentence."""
    told = [
        f"{name} is {', '.join(f'{value} ({count})' for value, count in values.most_common(MOST))}"
        for name, values in said.items()
    ]
    return f" In the sets {'; '.join(told)}." if told else ""


def candidates_of(
    number: int,
    records: RecordSet,
    pairs: Sequence[PairFactors],
    factors: Factors,
    not_kept: Counter[str],
) -> list[Candidate]:
    """The rows of a set that the conditions keep; others are counted by condition.

    Args:
        number: of the set, from 0.
        records: its rows.
        pairs: what each says of its factors.
        factors: what is asked for.
        not_kept: is counted up, by the first condition that a pair does not meet.
    """
    found, wanted = [], factors.wanted()
    for index, (id, pair) in enumerate(zip(records.ids, pairs, strict=True)):
        asked = zip(wanted.items(), pair.kept_by, strict=True)
        missed = next((condition for condition, value in asked if value not in condition[1]), None)
        if missed is None:
            found.append(Candidate(number, index, id, pair.own))
        else:
            not_kept["=".join((missed[0], "|".join(sorted(missed[1]))))] += 1
    return found
