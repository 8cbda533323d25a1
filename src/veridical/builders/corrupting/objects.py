"""Objects that are not there, drawn from what usually appears with what is there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from veridical.builders.corrupting.compounds import in_compound
from veridical.builders.corrupting.groups import alike
from veridical.builders.corrupting.sites import Site, Span
from veridical.builders.corrupting.words import is_color
from veridical.data.object_questions import count_together
from veridical.data.text.english import ONE_FORM, PLURAL_ONLY, is_plural
from veridical.data.vocabulary import Mention, Vocabulary
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json

ObjectDraw = Literal["together", "frequent", "random"]


@dataclass(frozen=True)
class Habits:
    """What usually appears, and with what.

    Attributes:
        together: object to the others, with the number of images that hold both, or a weight.
        frequent: object to the number of images that hold it.
    """

    together: Mapping[str, Mapping[str, float]]
    frequent: Mapping[str, float]

    def weights(self, name: str, there: Collection[str], draw: ObjectDraw) -> dict[str, float]:
        """The weight of every object that is not there and could be named instead of `name`.

        `together`: the images in which it appears with each object that is there, added up;
        `frequent`: the images in which it appears; `random`: one. Where none has a weight above
        zero, all have one.
        """
        absent = [
            other for other in sorted(self.frequent.keys() - set(there)) if alike(name, other)
        ]
        found = {other: self._weight(other, there, draw) for other in absent}
        return found if any(found.values()) else dict.fromkeys(absent, 1.0)

    def _weight(self, name: str, there: Collection[str], draw: ObjectDraw) -> float:
        if draw == "random":
            return 1.0
        if draw == "frequent":
            return self.frequent[name]
        return sum(self.together.get(present, {}).get(name, 0.0) for present in there)


def habits_of(lists: Iterable[Sequence[str]], vocabulary: Vocabulary) -> Habits:
    """Count object lists; objects of the vocabulary that no list has count zero."""
    together, frequent = count_together(lists)
    return Habits(together, dict.fromkeys(vocabulary.names, 0.0) | dict(frequent))


def read_habits(path: Path, vocabulary: Vocabulary) -> Habits:
    """Read `{object: {other: count}}`, or `{object: [others, the commonest first]}` as POPE has it.

    Of a list the first of n others weighs n and the last 1. Names that the vocabulary does not know
    are left out.

    Raises:
        UserError: the file is neither, or the vocabulary knows none of its names.
    """
    content = read_json(path)
    form = f'{path} must be a JSON object {{"object": {{"other": count}}}} or of lists of others'
    if not isinstance(content, dict) or not content:
        raise UserError(f"{form}.")
    together: dict[str, dict[str, float]] = {}
    for name, others in content.items():
        if (known := vocabulary.name_of(name)) is None:
            continue
        counts = _counts(others)
        if counts is None:
            raise UserError(f"{form}, but {name!r} has {str(others)[:60]!r}.")
        named = {vocabulary.name_of(other): count for other, count in counts.items()}
        together[known] = {other: n for other, n in named.items() if other and other != known}
    if not together:
        raise UserError(f"{path}: the vocabulary knows none of its objects. Set --vocabulary.")
    frequent = dict.fromkeys(vocabulary.names, 0.0)
    for others in together.values():
        for other, count in others.items():
            frequent[other] += count
    return Habits(together, frequent)


def object_sites(
    answer: str,
    listed: Sequence[str] | None,
    vocabulary: Vocabulary,
    habits: Habits,
    draw: ObjectDraw,
) -> list[Site]:
    """One site for each object that the answer names truly, at all places where it names it.

    No option is an object of the image, or one that the answer names anyhow. One of COCO's classes
    is replaced by one of its group, an animal by an animal; so people stay people.

    Args:
        answer: the true answer.
        listed: the vocabulary's names of what is in the image; None if that is not known, so that
            what the answer names is taken to be all.
        vocabulary: which words name which object.
        habits: weigh the options.
        draw: which of the weights.
    """
    mentions: dict[str, list[Mention]] = {}
    for mention in vocabulary.mentions(answer):
        if not is_color(answer, mention.start, mention.end):
            mentions.setdefault(mention.name, []).append(mention)
    there = set(mentions) | set(listed or ())
    sites = []
    for name, places in mentions.items():
        spans = [_span(answer, place) for place in places]
        if (listed is not None and name not in listed) or None in spans:
            continue
        several = all(span and span.plural for span in spans)
        options = {
            option: weight
            for option, weight in habits.weights(name, there, draw).items()
            if weight and (several or option.split()[-1] not in PLURAL_ONLY)
        }
        if options:
            sites.append(Site("object", name, tuple(span for span in spans if span), options))
    return sites


def _span(answer: str, mention: Mention) -> Span | None:
    """Where a new noun goes, in which number; None where no other noun can stand there.

    That is in a compound, and where the form does not tell the number.
    """
    if in_compound(answer, mention.start, mention.end):
        return None
    start = mention.start
    first, _, rest = mention.text.partition(" ")
    if first.lower() == "orange" and rest:  # its color, which vocabularies take into the phrase
        start += len(first) + 1
    last = mention.text.lower().split()[-1]
    if last in ONE_FORM:
        alone = answer[:start].lower().split()[-1:]
        return Span(start, mention.end) if alone in (["a"], ["an"], ["one"]) else None
    return Span(start, mention.end, is_plural(last))


def _counts(others: Any) -> dict[str, float] | None:
    if isinstance(others, list) and all(isinstance(other, str) for other in others):
        return {other: float(len(others) - place) for place, other in enumerate(others)}
    if isinstance(others, dict) and all(
        isinstance(count, (int, float)) and not isinstance(count, bool) and count >= 0
        for count in others.values()
    ):
        return {str(other): float(count) for other, count in others.items()}
    return None
