"""Read from a reply which of two responses a judge prefers: a small, strict form or nothing.

What counts as a verdict:

1. a field of a JSON object: `{"winner": "Response 1"}`;
2. a labeled sentence: "Verdict: Response 1", "The better response is Response 1.";
3. a name alone as the whole reply, its first or its last line;
4. a whole sentence of a closed list, "Response 1 is better.", as the first line or at the end; a
   reason may follow "because".

All of them have to agree. Prose is not interpreted: what a sentence says besides makes it unread,
and so do reasons that speak against the verdict (`contradictions.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from veridical.data.text.thoughts import answer_of
from veridical.judges.contradictions import Rest, contradicts
from veridical.judges.prompts import TIE, UnreadableError

TIED = -1
SHORT_NAME = 2
"""Characters up to which a name has to be written as it is: "A" is a name, "a" an article."""

_REASONING = re.compile(
    r"<(thinking|reasoning|analysis|scratchpad|reflection)>.*?(?:</\1>|\Z)", re.I | re.S
)
_MARKUP = re.compile(r"[*_`\"\u201c\u201d\[\]{}$\\]|</?\w+>|^\s*>", re.M)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_LABEL = (
    r"(?:(?:my|the|our|final|overall) )*(?:answer|verdict|decision|choice|pick|judge?ment"
    r"|conclusion|winner|preference|result|final|overall"
    r"|(?:better|best|preferred|winning|chosen)(?: (?:one|response|answer|option))?)"
)
_LEAD = (
    r"(?:(?:so|thus|hence|therefore|however|but|and|overall|finally|in conclusion|to conclude"
    r"|in summary|in short|all in all|on balance|between the two),? )?"
)
_BETTER = (
    r"wins|is (?:the )?(?:clear )?(?:better|best|superior|preferred|preferable|winner)"
    r"(?: (?:one|response|answer|option|choice))?"
)
_OVER = r"is better than|is superior to|is preferable to|is preferred over|beats|wins over"
_CHOOSE = r"(?:(?:I|we)(?: would|'d)? (?:prefer|choose|pick|select)|I go with)"
_AGAINST = r"(?:but|however|although|though|yet|unless|if|not sure)"
_REASON = rf"(?:,? (?:because|since) (?:(?!\b{_AGAINST}\b).)+?)?"
_BETTER_ONE = re.compile(
    r"\b(?:better|best|prefer\w*|winn\w+|wins|chosen|choose|pick|select|superior|beats|go with)\b",
    re.I,
)
"""A verdict that says what it is; others, such as "Answer:", name a response and no more."""
_CONTINUED = re.compile(
    r"(?-i:[a-z])|(?!(?:this|its|it's|thus|as|besides|yes|based)\b)[a-z]+(?:s|ed)\b", re.I
)
"""How a line begins that goes on with the sentence before it: "invents a dog", "Invents a dog"."""
_TAKEN_BACK = re.compile(
    r"\b(?:correction:|edit:|update:|i (?:strongly )?disagree\b"
    r"|scratch that|on second thoughts?|on reflection|i take (?:that|it) back"
    r"|actually,|wait(?:[,.!:]| -)|let me correct|kidding|i mean\b|sorry,|reconsider"
    r"|i was wrong|i (?:was|am) mistaken\b|i'm mistaken\b|the other way (?:a)?round\b)",
    re.I,
)


@dataclass(frozen=True)
class _Forms:
    """The patterns that one pair of names makes."""

    names: tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]
    mentions: tuple[re.Pattern[str], re.Pattern[str]]
    only: re.Pattern[str]
    labeled: re.Pattern[str]
    plain: re.Pattern[str]
    over: re.Pattern[str]
    heading: re.Pattern[str]

    def number(self, text: str) -> int:
        """0, 1 or `TIED`: which name a text is."""
        return (0, 1, TIED)[[bool(one.fullmatch(text)) for one in self.names].index(True)]


@dataclass(frozen=True)
class _Place:
    """A sentence, and where it stands.

    Attributes:
        sentence: the whole of it.
        lead: the sentence before.
        alone: whether it is a line.
        edge: whether it is the first line or ends the reply.
        goes_on: whether the next line looks like its other half.
    """

    sentence: str
    lead: str
    alone: bool
    edge: bool
    goes_on: bool


def read_choice(text: str, names: Sequence[str], cut: bool = False) -> int | None:
    """Which response a reply says is better: 0, 1, or None for a tie.

    Thoughts are left out. See the module for what counts.

    Args:
        text: the judge's reply.
        names: what the two responses are called.
        cut: whether the reply was cut off. Then its first line has to be a name or labeled, and
            has to have ended.

    Raises:
        UnreadableError: no verdict in that form, or verdicts that do not agree.
    """
    forms = _forms(names)
    answer = _REASONING.sub("", answer_of(text)).replace("\u2019", "'")
    fields, keys, values, prose = _fields(answer, forms)
    lines = _lines(prose)
    if cut and not (len(lines) > 1 and _short(lines[0], forms)):
        raise UnreadableError("it is cut off before a verdict")
    if _TAKEN_BACK.search(prose):
        raise UnreadableError("it takes something back")
    said, rest = _said(lines, forms)
    found = {*fields, *said}
    if not found:
        raise UnreadableError("it does not say in the form asked for which is better")
    if len(found) > 1:
        raise UnreadableError("its verdicts do not agree")
    winner = None if TIED in found else found.pop()
    rest = Rest([*values, *rest.sentences], rest.bare and not _BETTER_ONE.search(keys))
    if why := contradicts(rest, winner, forms.mentions):
        raise UnreadableError(why)
    return winner


def _fields(answer: str, forms: _Forms) -> tuple[list[int], str, list[str], str]:
    """The verdicts in JSON objects, their keys, the other texts, and the reply without objects."""
    decoder = json.JSONDecoder(object_pairs_hook=list)
    found: list[int] = []
    keys, values = "", list[str]()
    prose, start = "", 0
    while (at := answer.find("{", start)) >= 0:
        prose += answer[start:at]
        try:
            pairs, start = decoder.raw_decode(answer, at)
        except (json.JSONDecodeError, RecursionError):
            prose, start = prose + "{", at + 1
            continue
        # An object is a list of its pairs, so that a field that comes twice counts twice.
        for key, value in pairs:
            said = str(value).strip().rstrip(".")
            label = re.sub(r"[_\W]+", " ", key)
            is_label = re.fullmatch(_LABEL, label, re.I)
            if is_label and (match := forms.only.fullmatch(said)):
                found.append(forms.number(match[1]))
                keys += f"{label} "
            else:
                values += _SENTENCE_END.split(f"{key}: {value}")
    return found, keys, values, prose + answer[start:]


def _lines(prose: str) -> list[str]:
    """The lines that say something, without markup."""
    prose = re.sub(r"</?(?:answer|verdict)>", "\nAnswer: ", prose, count=1, flags=re.I)
    prose = re.sub(r"\\boxed\s*\{", "\nFinal answer: ", prose)
    prose = re.sub(r"^\s*```\w*\s*$", "", prose, flags=re.M)
    lines = [" ".join(line.split()) for line in _MARKUP.sub("", prose).splitlines()]
    return [line for line in lines if line]


def _said(lines: Sequence[str], forms: _Forms) -> tuple[set[int], Rest]:
    """All verdicts of the lines: what counts and, if anything does, what speaks against it.

    Returns:
        The verdicts, and what is said beside them: everything where all are names alone, else what
        comes after the first.
    """
    counted: set[int] = set()
    mentioned: set[int | None] = set()
    rest: list[str] = []
    after: list[str] = []
    alone = bare = True
    headed = any(forms.heading.match(line) for line in lines[1:-1]) or any(
        ":" in line and forms.heading.match(line) for line in (*lines[:1], *lines[1:][-1:])
    )
    for place in _places(lines):
        only, plain = _bare(place.sentence, forms), _plain(place.sentence, forms)
        mentioned |= {plain, None if place.alone and not place.edge else only}
        found, is_name = _counted(place, forms, plain, None if headed else only)
        if found is None:
            rest.append(place.sentence)
            after += [place.sentence] if counted else []
            continue
        counted.add(found)
        alone = alone and is_name
        bare = bare and (is_name or not _BETTER_ONE.search(f"{place.lead} {place.sentence}"))
    said = Rest(rest if alone else after, bare)
    return counted | {one for one in mentioned if one is not None} if counted else counted, said


def _counted(
    place: _Place, forms: _Forms, plain: int | None, only: int | None
) -> tuple[int | None, bool]:
    """The verdict of a sentence, and whether it is a name alone."""
    asked = place.lead.endswith("?") or (place.lead.endswith(":") and not _is_label(place.lead))
    if place.goes_on or asked:
        return None, False
    if (labeled := _labeled(place, forms)) is not None:
        return labeled, False
    if not place.edge or plain is not None:
        return plain if place.edge else None, False
    ended = not place.lead or place.lead.endswith((".", "!"))
    return only if place.alone and ended else None, True


def _places(lines: Sequence[str]) -> Iterator[_Place]:
    """Every sentence, and where it stands."""
    lead = ""
    for row, line in enumerate(lines):
        last = row == len(lines) - 1
        sentences = _SENTENCE_END.split(line)
        for column, sentence in enumerate(sentences):
            alone, ends = len(sentences) == 1, column == len(sentences) - 1
            goes_on = bool(ends and not last and _CONTINUED.match(lines[row + 1]))
            edge = (alone and row == 0) or (last and ends)
            yield _Place(sentence, lead, alone, edge, goes_on)
            lead = sentence


def _labeled(place: _Place, forms: _Forms) -> int | None:
    """The verdict of a sentence with its label, which may be the line before."""
    label = f"{place.lead} " if _is_label(place.lead) else ""
    match = forms.labeled.fullmatch(f"{label}{place.sentence}")
    return forms.number(match[1]) if match else None


def _bare(sentence: str, forms: _Forms) -> int | None:
    """The name that a sentence is."""
    match = forms.only.fullmatch(sentence)
    return forms.number(match[1]) if match else None


def _plain(sentence: str, forms: _Forms) -> int | None:
    """The winner of a sentence of the closed list."""
    if match := forms.plain.fullmatch(sentence):
        return forms.number(next(group for group in match.groups() if group))
    if match := forms.over.fullmatch(sentence):
        better, other = (forms.number(name) for name in match.groups() if name)
        return None if better == other else better
    return None


def _is_label(sentence: str) -> bool:
    return re.fullmatch(rf"{_LABEL}(?: is)?:", sentence, re.I) is not None


def _short(line: str, forms: _Forms) -> bool:
    """Whether a line is a name or a labeled one."""
    return bool(forms.only.fullmatch(line) or forms.labeled.fullmatch(line))


def _forms(names: Sequence[str]) -> _Forms:
    shared = names[0].rpartition(" ")[0]
    numbered = shared and names[1].rpartition(" ")[0] == shared
    wholes = [_pattern(name) for name in names]
    options = list(wholes)
    if numbered:
        options = [
            rf"{whole}|{name.split()[-1]}" for whole, name in zip(wholes, names, strict=True)
        ]
    if all(len(name) <= SHORT_NAME for name in names):
        options = [rf"(?:(?i:response|answer|option) )?{whole}" for whole in wholes]
    tie = rf"(?i:(?:a )?{TIE})"
    one, any_one = "|".join(wholes), "|".join([*options, tie])
    end = r"[.!]?"
    start = rf"(?i:{_LEAD})"
    return _Forms(
        (re.compile(options[0]), re.compile(options[1]), re.compile(tie)),
        (re.compile(rf"\b{wholes[0]}\b"), re.compile(rf"\b{wholes[1]}\b")),
        re.compile(rf"(?i:the )?\(?({any_one})\)?{end}"),
        re.compile(
            rf"{start}(?i:{_LABEL})(?: is:?|:| ?=| -+) \(?({any_one})\)?(?: is better| wins)?{end}"
        ),
        re.compile(
            rf"{start}(?:({one}) (?i:{_BETTER})(?: overall)?|(?i:{_CHOOSE}) ({one})(?: here)?"
            rf"|(?i:it is|it's) ({tie}))(?i:{_REASON}){end}"
        ),
        re.compile(
            rf"{start}(?:({one}) (?i:{_OVER}) ({one})|(?i:{_CHOOSE}) ({one}) (?:over|to) ({one}))"
            rf"(?i:{_REASON}){end}"
        ),
        re.compile(rf"(?:{one})\s*(?:$|:|-)"),
    )


def _pattern(name: str) -> str:
    words = " ".join(map(re.escape, name.split()))
    return words if len(name) <= SHORT_NAME else f"(?i:{words})"
