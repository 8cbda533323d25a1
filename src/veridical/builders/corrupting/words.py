"""Colors, counts, positions and yes or no: what can be changed without knowing the image.

The word lists and patterns are our own. They are narrow on purpose: a word that is left alone costs
a possible mistake, one that is changed where it means something else costs a sentence that no one
would write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from veridical.builders.corrupting.sites import Site, Span
from veridical.data.text.english import article
from veridical.data.text.leading_yes_no import leading_yes_or_no, swap_yes_no
from veridical.data.text.sentences import split_sentences
from veridical.data.vocabulary import Vocabulary

COLORS = (
    "red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "black", "white", "gray",
)  # fmt: skip
_SPELLED = {"grey": "gray"}
_FIXED = re.compile(r"\bblack[- ]and[- ]white\b", re.IGNORECASE)
"""Color words that name no color."""
NUMBERS = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
COUNT_WEIGHTS: Mapping[int, float] = {-1: 2.0, 1: 2.0, 2: 1.0}
"""How far a count is off, and how often: mostly by one (our choice)."""
_TAILS = r"of|on|in|at|with|and|or|is|are|was|were|to|for|from|by|near|as|but|that|which|while"
_PART = r"( side| corner| half| part| edge)?"
_ENDS = r"\s*[.,;!?]|\s*$"
_PICTURE = r"(?: (?:left|right|of the (?:image|picture|photo))\b|" + _ENDS + ")"
_NO_SKY = r"(?!(?: [\w,-]+){1,5} (?:sky|skies|sun|sunlight|moon|moonlight|stars|lights?)\b)"
_NOUN = r"(?= (?:a|an|the|it|him|her|them|his|their|another)\b)"
POSITIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (rf"(?<=\bthe )left(?={_PART}\b(?! (?:behind|out|over)\b))", ("right",)),
    (rf"(?<=\bthe )right(?={_PART}(?:{_ENDS}|\s+(?:{_TAILS})\b))", ("left",)),
    (r"\bleft(?=-hand\b)", ("right",)),
    (r"\bright(?=-hand\b)", ("left",)),
    (rf"(?<=\b(?:the|far) )top(?={_PICTURE})", ("bottom",)),
    (rf"(?<=\b(?:the|far) )bottom(?={_PICTURE})", ("top",)),
    (r"(?<=\btop )left\b", ("right",)),
    (r"(?<=\btop )right\b", ("left",)),
    (r"(?<=\bbottom )left\b", ("right",)),
    (r"(?<=\bbottom )right\b", ("left",)),
    (r"\bon top of\b", ("under", "next to")),
    (r"\bin front of\b", ("behind", "next to")),
    (rf"(?<!\bfrom )\bbehind{_NOUN}", ("in front of",)),
    (rf"\b(?:next to|beside){_NOUN}", ("behind", "in front of")),
    (rf"(?<!\bfrom )\babove{_NOUN}", ("below",)),
    (rf"(?<!\bfrom )\b(?:below|beneath|underneath){_NOUN}", ("above",)),
    (rf"(?<!\bfrom )\bunder(?= (?:a|an|the|it)\b){_NO_SKY}", ("on top of",)),
    (r"(?<=\bthe )foreground\b", ("background",)),
    (r"(?<=\bthe )background\b", ("foreground",)),
)
"""Words of place with what can be said instead, in the order in which they are looked for."""
_COUNT = re.compile(
    r"(?<![\w.:,/$#-])(?P<said>\d{1,2}|" + "|".join(NUMBERS) + r")(?![\w:%/-]|[.,]\d)",
    re.IGNORECASE,
)
_NOT_COUNTED = re.compile(
    r"\s*(?:o'clock|a\.?m\b|p\.?m\b|years?\b|hours?\b|minutes?\b|percent\b|of\b|to\b|or\b|and\b)"
)
_BE = r"is|are|was|were|can|could|will|would"
_THERE = re.compile(
    r"\b(?P<there>there (?P<be>is|are|was|were)) (?P<one>an? |some )?(?!no\b|not\b)"
)
_THERE_NO = re.compile(r"\b(?P<there>there (?P<be>is|are|was|were)) no (?P<noun>[\w-]+)")
_SAYS = re.compile(rf"\b(?P<be>{_BE})\b(?! not\b|n't)")
_SAYS_NOT = re.compile(rf"\b(?P<be>{_BE})(?: not\b|n't\b)")


def color_sites(answer: str, vocabulary: Vocabulary) -> Iterator[Site]:
    """One site for each color word.

    No option is another color of the answer, or one that the vocabulary takes for an object.

    "Orange" is one where it stands before a noun, or where the vocabulary does not take it for the
    fruit. "Black and white" is left alone.
    """
    fixed = [match.span() for match in _FIXED.finditer(answer)]
    mentions = vocabulary.mentions(answer) if "orange" in answer.lower() else []
    fruits = {m.start for m in mentions if m.name == "orange" == m.text.lower()}
    found = [
        match
        for match in re.finditer(rf"\b(?:{'|'.join((*COLORS, *_SPELLED))})\b", answer, re.I)
        if not any(start <= match.start() < end for start, end in fixed)
        and (match.start() not in fruits or _before_noun(answer, match.end()))
    ]
    said = {_SPELLED.get(match[0].lower(), match[0].lower()) for match in found}
    options = {
        color: 1.0 for color in COLORS if color not in said and not vocabulary.name_of(color)
    }
    for match in found:
        yield Site("color", match[0].lower(), (Span(*match.span()),), options)


def is_color(answer: str, start: int, end: int) -> bool:
    """Whether "orange" at a place is the color of what follows."""
    return answer[start:end].lower() == "orange" and _before_noun(answer, end)


def count_sites(answer: str) -> Iterator[Site]:
    """One site for each count from two up that is followed by what is counted, or by nothing.

    One is left alone: the noun, the verb and the pronouns would have to follow.
    """
    for match in _COUNT.finditer(answer):
        if _NOT_COUNTED.match(answer, match.end()):
            continue
        said = match["said"].lower()
        value = int(said) if said.isdigit() else NUMBERS.index(said) + 2
        options = {
            str(value + step) if said.isdigit() else NUMBERS[value + step - 2]: weight
            for step, weight in COUNT_WEIGHTS.items()
            if value + step >= 2 and (said.isdigit() or value + step - 2 < len(NUMBERS))
        }
        if value >= 2 and options:
            yield Site("count", said, (Span(*match.span()),), options)


def position_sites(answer: str) -> Iterator[Site]:
    """One site for each word of place that has an opposite."""
    taken: set[int] = set()
    for pattern, options in POSITIONS:
        for match in re.finditer(pattern, answer, re.IGNORECASE):
            if taken.isdisjoint(range(*match.span())):
                taken |= set(range(*match.span()))
                site = Span(*match.span())
                yield Site("position", match[0].lower(), (site,), dict.fromkeys(options, 1.0))


def yes_no_sites(answer: str) -> Iterator[Site]:
    """The whole answer as one site, where yes and no can be exchanged and the rest turned with it.

    Only in answers of one sentence, as others may go on to contradict it.
    """
    said = leading_yes_or_no(answer)
    if said is None or len(split_sentences(answer, "en")) > 1:
        return
    swapped = swap_yes_no(answer)
    length = len(re.match(r"\W*\w+", swapped)[0])  # type: ignore[index]
    head, rest = swapped[:length], swapped[length:]
    if any(letter.isalpha() for letter in rest):
        turned = _denied(rest) if said == "yes" else _affirmed(rest)
        if turned is None:
            return
        rest = turned
    yield Site("yes_no", said, (Span(0, len(answer)),), {head + rest: 1.0})


def word_sites(answer: str, vocabulary: Vocabulary) -> list[Site]:
    """All sites of an answer but those of objects."""
    found: Iterable[Iterator[Site]] = (
        color_sites(answer, vocabulary), count_sites(answer), position_sites(answer),
        yes_no_sites(answer),
    )  # fmt: skip
    return [site for sites in found for site in sites if site.options]


def _before_noun(answer: str, end: int) -> bool:
    following = re.match(r" ([a-z]+)", answer[end:])
    return following is not None and not re.fullmatch(_TAILS, following[1])


def _denied(rest: str) -> str | None:
    """What follows a yes, as what follows a no; None where no rule fits."""
    if match := _THERE.search(rest):
        return f"{rest[: match.start()]}{match['there']} no {rest[match.end() :]}"
    if match := _SAYS.search(rest):
        return f"{rest[: match.end()]} not{rest[match.end() :]}"
    return None


def _affirmed(rest: str) -> str | None:
    """What follows a no, as what follows a yes; None where no rule fits."""
    if match := _THERE_NO.search(rest):
        several = match["be"] in ("are", "were")
        one = "some" if several else article(match["noun"])
        return f"{rest[: match.start()]}{match['there']} {one} {rest[match.start('noun') :]}"
    if match := _SAYS_NOT.search(rest):
        return f"{rest[: match.start()]}{match['be']}{rest[match.end() :]}"
    return None
