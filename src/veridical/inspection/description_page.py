"""The page of `data describe`: facts of several sets as tables, a set a column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from veridical.inspection.facts import Fact
from veridical.inspection.shortcuts import COIN, best_guess
from veridical.runtime.versions import own_version

if TYPE_CHECKING:
    from veridical.inspection.length_bias import FieldValue

MARK = '<p class="kicker">Veridical data description'
MINUS, THIN = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}"
HALF = f"50{THIN}%"
NOTES = {
    "Lengths and positions": "A judge that always takes the longer, the shorter or the first "
    f"answer is right this often. A trained model has to be compared with that, not with {HALF}.",
    "In what they differ": "Objects are COCO's 80 classes, by a short list of English words.",
    "Shortcuts: right without the image": "Each guess is a logistic regression on four fifths of "
    f"the images, tested on the pairs of the others. {HALF} is chance; what is above it can be "
    "learned without looking.",
    "Agreement between judges": "1 is full agreement, 0 what chance gives.",
}


class DescribedSet(Protocol):
    """What the page needs of a set."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def path(self) -> str:
        """Its file."""

    @property
    def facts(self) -> list[Fact]:
        """What is said of it."""

    @property
    def parts(self) -> list[FieldValue]:
        """Lengths and positions by field."""


@dataclass(frozen=True)
class Cell:
    """One number on the page."""

    set: str
    value: str
    interval: str
    note: str
    strong: bool


@dataclass(frozen=True)
class FactRow:
    """One fact of every set."""

    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class Section:
    """A heading with its table."""

    title: str
    note: str
    rows: list[FactRow]


@dataclass(frozen=True)
class Page:
    """Everything the template names."""

    headline: str
    lead: str
    names: list[str]
    paths: list[str]
    sections: list[Section]
    between: list[FactRow]
    parts: list[tuple[str, list[FieldValue]]]
    version: str


def page_of(sets: Sequence[DescribedSet], between: Sequence[Fact]) -> Page:
    """The page of some sets."""
    names = [one.name for one in sets]
    return Page(
        headline=f"{sum(_pairs(one) for one in sets):,} preference pairs in "
        f"{len(sets)} {'set' if len(sets) == 1 else 'sets'}",
        lead=_lead(sets),
        names=names,
        paths=[one.path for one in sets],
        sections=list(_sections(sets)),
        between=[FactRow(fact.label, [_cell("all sets", fact)]) for fact in between],
        parts=[(one.name, one.parts) for one in sets if one.parts],
        version=own_version(),
    )


def _pairs(one: DescribedSet) -> int:
    return next(int(f.value or 0) for f in one.facts if f.label == "Preference pairs")


def _lead(sets: Sequence[DescribedSet]) -> str:
    """The strongest shortcut of all sets, as far as one is above chance."""
    found = [(*best_guess(one.facts), one.name) for one in sets]
    guesses = [(fact, above, name) for fact, above, name in found if fact is not None]
    if not guesses:
        return "There are too few pairs to tell how much can be guessed without an image."
    fact, above, name = max(guesses, key=lambda item: (item[1], item[0].value or 0.0))
    if not above:
        return "No guess without the image is shown to be above chance."
    return (
        f"Without any image, the chosen answer of {name} is guessed in {fact_text(fact)} of "
        f"held-out pairs, by: {fact.label[:1].lower()}{fact.label[1:]}."
    )


def _sections(sets: Sequence[DescribedSet]) -> Iterator[Section]:
    """Facts of the same section and label in one row, in the order of their first occurrence."""
    order = dict.fromkeys((fact.section, fact.label) for one in sets for fact in one.facts)
    known = [{(fact.section, fact.label): fact for fact in one.facts} for one in sets]
    for title in dict.fromkeys(section for section, _ in order):
        rows = [
            FactRow(label, [
                _cell(one.name, facts.get((section, label)))
                for one, facts in zip(sets, known, strict=True)
            ])
            for section, label in order
            if section == title
        ]  # fmt: skip
        yield Section(title, NOTES.get(title, ""), rows)


def _cell(name: str, fact: Fact | None) -> Cell:
    if fact is None:
        return Cell(name, "\N{EM DASH}", "", "", False)
    interval = ""
    if fact.low is not None and fact.high is not None:
        ends = (_number(end, fact) for end in (fact.low, fact.high))
        interval = " to ".join(ends)
    strong = fact.section.startswith("Shortcuts") and (fact.low or 0.0) > COIN
    return Cell(name, fact_text(fact), interval, fact.note, strong)


def fact_text(fact: Fact) -> str:
    """A fact's number with its unit."""
    if fact.value is None:
        return "\N{EM DASH}"
    unit = {"share": f"{THIN}%", "words": " words"}.get(fact.unit, "")
    return _number(fact.value, fact) + unit


def _number(value: float, fact: Fact) -> str:
    form = {"share": ".1f", "count": ",.0f", "words": ",.0f"}.get(fact.unit, ".2f")
    scaled = 100 * value if fact.unit == "share" else value
    return f"{scaled:{form}}".replace("-", MINUS)
