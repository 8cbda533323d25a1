"""A row as a template shows it: texts cut into marked stretches, and not longer than a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from veridical.web.differences import Segment, differing_words, segments
from veridical.web.shown_rows import FieldValue, Mark, ShownAnswer, ShownRow

CLIPPED, WHOLE = 700, 20_000  # letters of an answer in a list, and on a row's own page
PROMPT_CLIPPED, PROMPT_WHOLE = 400, 4_000
FEW_IMAGES, MANY_IMAGES = 12, 500
MOST_ANSWERS = 20
LEGEND = {
    "different": "not in the other answer",
    "made_up": "not in the list of the image's objects",
    "real": "in the list",
    "completed": "written by the model with the image hidden",
    "weighted": "has a weight of its own",
}


@dataclass(frozen=True)
class CardText:
    """A text, cut where marks begin and end.

    Attributes:
        segments: what is shown.
        hidden: how many letters are not.
    """

    segments: list[Segment]
    hidden: int


@dataclass(frozen=True)
class CardAnswer:
    """One answer."""

    number: int
    title: str
    about: Sequence[str]
    text: CardText


@dataclass(frozen=True)
class CardImage:
    """One image: its place in the row, and what it is called."""

    number: int
    label: str
    name: str


@dataclass(frozen=True)
class Card:
    """One row."""

    number: int
    id: str
    problem: str
    images: list[CardImage]
    hidden_images: int
    prompt: list[tuple[str, CardText]]
    answers: list[CardAnswer]
    hidden_answers: int
    facts: list[tuple[str, str]]

    @property
    def kinds(self) -> list[str]:
        """The kinds of marks that are shown, in the legend's order."""
        found = {k for a in self.answers for s in a.text.segments for k in s.kinds}
        return [kind for kind in LEGEND if kind in found]


def card_of(row: ShownRow, whole: bool, all_images: bool = False) -> Card:
    """A row's card.

    Args:
        row: the row.
        whole: whether it is shown on its own page, and not in a list.
        all_images: whether more than the first few are shown.
    """
    limit = WHOLE if whole else CLIPPED
    different = _differences(row.answers, limit)
    answers = [
        CardAnswer(
            number, answer.title, answer.about, _cut(answer.text, [*answer.marks, *marks], limit)
        )
        for number, (answer, marks) in enumerate(zip(row.answers, different, strict=True))
    ]
    few = 1 if not whole else MANY_IMAGES if all_images else FEW_IMAGES
    images = [
        CardImage(number, image.label, image.path or "")
        for number, image in enumerate(row.images[:few])
    ]
    asked = PROMPT_WHOLE if whole else PROMPT_CLIPPED
    turns = row.prompt if whole else row.prompt[-1:]
    shown = answers[:MOST_ANSWERS] if whole else [*answers[:1], *answers[1:][-1:]]
    return Card(
        row.number,
        row.id,
        row.problem,
        images,
        len(row.images) - len(images),
        [(turn.role, _cut(turn.text, (), asked)) for turn in turns[:MOST_ANSWERS]],
        shown,
        len(answers) - len(shown),
        [(name, said(value)) for name, value in row.fields.items()],
    )


def said(value: FieldValue) -> str:
    """A field's value as it is shown."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _differences(answers: Sequence[ShownAnswer], limit: int) -> list[list[Mark]]:
    none: list[list[Mark]] = [[] for _ in answers]
    if len(answers) < 2:
        return none
    first, second = differing_words(answers[0].text[: 2 * limit], answers[1].text[: 2 * limit])
    return [first, second, *none[2:]]


def _cut(text: str, marks: Sequence[Mark], limit: int) -> CardText:
    shown = text[:limit]
    within = [Mark(m.start, min(m.end, len(shown)), m.kind) for m in marks if m.start < len(shown)]
    return CardText(segments(shown, within), len(text) - len(shown))


def sets_legend(cards: Sequence[Card]) -> Mapping[str, str]:
    """What the marks on some cards mean."""
    found = {kind for card in cards for kind in card.kinds}
    return {kind: words for kind, words in LEGEND.items() if kind in found}
