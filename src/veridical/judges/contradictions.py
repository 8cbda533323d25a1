"""Find out whether what a judge says beside its verdict speaks against that verdict.

A verdict that is only a name, "Response 1", does not say what it names: the better response or the
worse one. So its reasons must not speak for the other response alone. A verdict that says what it
is, "Winner: Response 1", is contradicted by a sentence that calls this response the worse one, or
the other one the better one.

Sentences are read clause by clause. A clause is about the response that it names first or, if it
names none, about the last one that was named. Wrong guesses make a reply unread, never turn it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

LATIN = "\u024f"
"""The last letter of the Latin alphabet's blocks."""

_BETTER = (
    r"better|best|superior|winner|wins|won|prefer(?:red|able|ring)?|stronger|strongest|favou?r(?:ed)?"
    r"|outperforms|beats|more (?:accurate|faithful|truthful|correct|reliable|grounded)"
)
_WORSE = (
    r"worse|worst|inferior|loser|loses|lost|lesser|weaker|weakest|poor(?:er|est)?|bad|reject(?:ed)?"
    r"|disqualified|less (?:accurate|faithful|truthful|correct|reliable|grounded|helpful)"
)
_PRAISE = (
    r"accurate(?:ly)?|correct(?:ly)?|right(?:ly)?|faithful(?:ly)?|truthful(?:ly)?|grounded|precise(?:ly)?"
    r"|true|matches|sticks|perfect(?:ly)?|good|great|excellent"
)
_FAULT = (
    r"invent\w*|hallucinat\w*|fabricat\w*|made[- ]up|makes (?:\w+ ){0,2}up|imagin\w*"
    r"|miss(?:es|ed|ing)?|omits?|fails?|failed|wrong(?:ly)?|incorrect(?:ly)?|inaccura\w*|mistak\w*|errors?|false(?:ly)?"
    r"|misidentif\w*|misread\w*|misses|contradicts?|unfaithful|ungrounded|nonexistent|non-existent"
    r"|absent|phantom|fictional|fictitious|bogus|mislabel\w*|confus\w*"
    r"|unsupported|claims?|calls|adds|overlooks|ignores|exaggerates|violates|not as \w+ as"
)
_MAY_PRAISE = r"more|most|as it is|deserves?|trust|win|pick|choose|chose|go with|favou?rite|ahead"
"""Words that speak for a response in some sentences: "I'd trust Response 2 more"."""
_NOT = (
    r"not?|n't|never|nothing|none|neither|nor|hardly|barely|without|free|avoids?|fewer|less"
    r"|rather|instead"
)
_UNSURE = re.compile(
    r"\b(?:not (?:entirely |quite |really |so )?(?:sure|certain|confident)|unsure|uncertain"
    r"|can(?:'t|not| not)\b.{0,20}?\b(?:tell|decide|judge|determine"
    r"|see|view|say|verify|compare|know)"
    r"|unable to|impossible to|hard to (?:say|tell)|guess(?:ing)?|random(?:ly)?|coin|toss"
    r"|no preference|equally|equal|identical|neither|which (?:\w+ )?is (?:the )?wors[et])\b",
    re.I,
)
_SCORES = re.compile(
    r"\b(?:\d+(?:\.\d+)?\s?(?:/|out of)\s?(?:5|10|100)|scores?|rat(?:ed|ings?))\b", re.I
)
"""What may be higher for the other one."""
_NOT_SO = re.compile(
    r"(?:no|nope|never|vs|versus)\b[.,!]?(?: (?:really|quite|at all))?[.!]?"
    r"|(?:not|or|if|unless|is|was|should|must|would|could|can|cannot|to)\b.*",
    re.I,
)
"""A sentence that goes on with the name before it, or takes it back."""
_NOT_THERE = re.compile(
    r"(?:\b(?:is|are|was|were|does|do)(?: not|n't)|\b(?:cannot|can't|not))(?: actually)?"
    r" (?:(?:really )?there|be (?:seen|found|verified)|exist|present|visible|shown|appear"
    r"|in the (?:image|picture|photo))\b",
    re.I,
)
"""A fault that is written as a denial."""
_ASIDE = re.compile(
    r"\b(?:unlike|than|compared (?:to|with)|in contrast to|as opposed to|relative to|over"
    r"|as \w+ as)\b\W*\Z",
    re.I,
)
"""Words behind which a name is what another is compared with."""
_CLAUSE = re.compile(
    r"[,;:()\u2013\u2014]|\b(?:but|while|whereas|although|though|because|since|and|so|yet|which)\b",
    re.I,
)
_DENIES = re.compile(
    rf"\b(?:{_NOT}|but|yet|though|although|however|despite|problems?|issues?|exaggerat\w*"
    r"|too (?:much|many|long|short|vague))\b|n't\b",
    re.I,
)
"""What may make a fault of words that are not known here."""
_AS_SAID = r"as .*(?:says?|states?|notes?|stated|described|mentioned)\b.*"
"""Who is right: "a cat, as Response 2 says"."""
_ENGLISH = re.compile(
    r"\b(?:the|are|it|its|this|that|and|of|with|than|more|less|has|does|both|because|which|only"
    r"|while|fewer|better|worse|no)\b",
    re.I,
)
_ORDINALS = [
    re.compile(
        rf"\bthe {order}\b(?= (?:one|response|answer|option|caption|description)\b| \w+s\b)"
        rf"|(?:\b(?:response|answer|option|caption|description|candidate|assistant|text) |#)"
        rf"{number}\b",
        re.I,
    )
    for number, order in enumerate(("first", "second"), start=1)
]
"""Other names than those that the judge was shown."""
_OTHER = re.compile(r"\bthe other\b(?= (?:one|response|answer)\b| \w+s\b)", re.I)
_THIS = re.compile(r"\b(?:this|that)\b(?: (?:one|response|answer)\b| (?:is|was)\b)", re.I)
_LATTER = re.compile(r"\bthe (?:former|latter)\b", re.I)
_WHOLE = re.compile(
    r"\W*(?:(?:response|one|answer|choice|option|overall|by far|here)\b\W*)*"
    r"(?:$|\b(?:because|since|than|as it)\b)",
    re.I,
)
"""How a sentence goes on that calls something better as a whole, not "better at colors"."""


@dataclass(frozen=True)
class Rest:
    """What a reply says beside its verdict.

    Attributes:
        sentences: in order.
        bare: whether the verdict names a response and does not say that it is the better one.
    """

    sentences: Sequence[str]
    bare: bool


def contradicts(rest: Rest, winner: int | None, names: Sequence[re.Pattern[str]]) -> str | None:
    """Why a reply can't be trusted to mean its verdict, as half a sentence; None if it can.

    Args:
        rest: what it says beside.
        winner: 0, 1, or None for a tie.
        names: patterns of the two names.
    """
    if any(_UNSURE.search(sentence) for sentence in rest.sentences):
        return "it doubts its verdict"
    if rest.bare and _is_foreign(rest.sentences, names):
        return "its reasons are not in English"
    if rest.bare and any(_NOT_SO.fullmatch(s) or _SCORES.search(s) for s in rest.sentences):
        return "it goes on with something else than reasons"
    clauses = list(_clauses(rest.sentences, winner or 0, names))
    if winner is None:
        if rest.bare and any(clause.says(f"{_BETTER}|{_WORSE}") for clause in clauses):
            return "it calls one response better, and both equal"
        return None
    if any(_turns(clause, winner, rest.bare) for clause in clauses):
        return "its reasons call the other response better"
    if not rest.bare:
        return None
    sides = _sides(clauses, winner)
    if sides == {False}:
        return "its reasons speak for the other response"
    other = any(clause.about == 1 - winner and clause.says(_MAY_PRAISE) for clause in clauses)
    if not sides and (other or any(map(_DENIES.search, rest.sentences))):
        return "its reasons do not say for whom they speak"
    return None


@dataclass(frozen=True)
class _Clause:
    """A part of a sentence, and the response that it is about; None where that is open."""

    text: str
    about: int | None

    def says(self, words: str) -> bool:
        """Whether any of these words is in it."""
        return re.search(rf"\b(?:{words})\b", self.text, re.I) is not None

    @property
    def negated(self) -> bool:
        """Whether it denies what it says, or may."""
        return re.search(rf"(?:\b|(?=n't))(?:{_NOT})\b", self.text, re.I) is not None

    @property
    def is_whole(self) -> bool:
        """Whether it calls a response better as a whole."""
        found = re.finditer(rf"\b(?:{_BETTER})\b", self.text, re.I)
        return any(_WHOLE.match(self.text[one.end() :]) for one in found)


def _is_foreign(sentences: Sequence[str], names: Sequence[re.Pattern[str]]) -> bool:
    """Whether three words or more have no common English one, or another script is used."""
    text = " ".join(sentences)
    for name in names:
        text = name.sub("", text)
    letters = [letter for letter in text if letter.isalpha()]
    if 3 * sum(letter > LATIN for letter in letters) > len(letters):
        return True
    return len(re.findall(r"\w+", text)) >= 3 and not _ENGLISH.search(text)


def _turns(clause: _Clause, winner: int, bare: bool) -> bool:
    """Whether a clause calls the winner worse or the other one better; a denial counts as well."""
    worse = clause.says(_WORSE)
    better = clause.says(_BETTER) if bare else clause.is_whole
    if clause.about is None:
        return bare and (worse or better)
    own = clause.about == winner
    if clause.negated:
        return (worse or better) and (bare or own)
    return worse if own else better


def _sides(clauses: Iterable[_Clause], winner: int) -> set[bool]:
    """Whom faults and praise speak for: the winner (True), the other one (False), both, nobody."""
    sides = set()
    for clause in clauses:
        if clause.about is None:
            continue
        own = clause.about == winner
        sides |= {own} if clause.says(_BETTER) else set()
        sides |= {not own} if clause.says(_WORSE) else set()
        sides |= {own != clause.negated} if clause.says(f"{_PRAISE}|{_AS_SAID}") else set()
        sides |= {own == clause.negated} if clause.says(_FAULT) else set()
    return sides


def _clauses(
    sentences: Sequence[str], winner: int, names: Sequence[re.Pattern[str]]
) -> Iterator[_Clause]:
    last = winner
    for sentence in sentences:
        for name in names:
            sentence = re.sub(rf"\s*[:=]\s*(?={name.pattern})", " is ", sentence)
        for text in _CLAUSE.split(_NOT_THERE.sub("nonexistent", sentence)):
            named = _named(text, last, names)
            last = last if named is None else named
            # "This one" means the verdict or what was named last, and "the latter" either.
            is_open = named is None and (
                (last != winner and _THIS.search(text)) or _LATTER.search(text)
            )
            yield _Clause(text, None if is_open else last)


def _named(text: str, last: int, names: Sequence[re.Pattern[str]]) -> int | None:
    """The response that a clause names first, if any."""
    found: list[tuple[int, int]] = []
    for number, name in enumerate(names):
        for pattern in (name, _ORDINALS[number]):
            found += [
                (match.start(), number)
                for match in pattern.finditer(text)
                if not _ASIDE.search(text[: match.start()])
            ]
    if other := _OTHER.search(text):
        found.append((other.start(), 1 - last))
    return min(found)[1] if found else None
