"""Read from a free text which of two responses a judge prefers; what is ambiguous is not read.

Every clause that says which response is better is collected with its weight. Only those of the
highest weight count, and they have to agree:

1. a final answer ("Final answer: Response 2");
2. a labelled or overall one ("Verdict: Response 2", "Overall, Response 2 is better");
3. a plain one ("Response 2 is better", or the name alone on a line or at the beginning);
4. one in a single respect ("Response 2 is more accurate"), unless the reply weighs respects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from veridical.judges.prompts import TIE, UnreadableError
from veridical.thoughts import answer_of

FINAL, LABELLED, PLAIN, RESPECT = range(4)
TIED = -1
SHORT_NAME = 2
"""Characters up to which a name has to be written as it is: "A" is a name, "a" an article."""

_REASONING = re.compile(
    r"<(thinking|reasoning|analysis|scratchpad|reflection)>.*?(?:</\1>|\Z)", re.I | re.S
)
_MARKUP = re.compile(r"[*_`#\"\u201c\u201d\[\]{}$\\]|(?<!\w)'|'(?!\w)|</?\w+>|^\s*>", re.M)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_CLAUSE_START = re.compile(
    r"\s*(?:[,;()\u2013\u2014:]|\s-+\s|(?=[.!?](?:\s|$)))\s*"
    r"|\s+(?=(?:because|since|as|but|while|whereas|although|though|however|even though)\b)",
    re.I,
)
_LABEL = (
    r"(?:(?:so|thus|hence|therefore|in conclusion|my|the|our|a)\W+)*"
    r"(?P<final>final\W+)?(?:overall\W+)?"
    r"(?:answer|verdict|decision|choice|pick|judge?ment|conclusion|winner|preference|result|final"
    r"|overall|(?:better|best|preferred|winning|chosen)(?:\W+(?:one|response|answer|option))?)"
)
_LABELLED = re.compile(
    rf"^\W*(?:\d+\W+)?{_LABEL}\s*(?:is\s*:?|would be|[:=]|\s-+\s)\s*(?P<rest>.*)$", re.I
)
_OVERALL = re.compile(
    r"\b(overall|in conclusion|to conclude|in summary|in sum|to sum up|all in all|on balance"
    r"|on the whole|taken together|all things considered|everything considered|in the end"
    r"|in general|in every (?:way|respect)|in all respects)\b",
    re.I,
)
_BETTER = re.compile(
    r"\b(better|best|superior|wins?|winner|winning|prefer(?!en)\w*|choose|chose|chosen|pick"
    r"|verdict|select|go with)\b",
    re.I,
)
_QUALITY = r"more (?:helpful|accurate|faithful|honest|truthful|correct|precise|reliable)"
_IN_ONE_RESPECT = re.compile(rf"\b{_QUALITY}\b", re.I)
_BETTER_DONE = re.compile(
    r"\bbetter (?!response|answer|one|choice|option|description|of|than|because|and|overall|in"
    r"|for|on|at)\w+",
    re.I,
)
_LIMITED = re.compile(
    r"\b(?:at|in terms of|when it comes to|with regard to|regarding|concerning|as for)\b"
    r"|\b(?:in|on|for) (?!my\b|this|that|these|every|all\b|both|general|the whole|the end|balance"
    r"|its\b|the image|the picture|the (?:given|shown|user))\w+"
    r"|\w-wise\b",
    re.I,
)
_DOUBT = re.compile(
    r"\b(not|no|nor|never|nobody|none|worse|worst|inferior|neither|both|either|or|equal\w*|same"
    r"|ties?|tied|loses?|lost|between|unlike|compared|than|if|unless|cannot|\w+n't|whether|which"
    r"|might|may|could|perhaps|maybe|hard|difficult|unclear|unsure|uncertain|unlikely|doubt\w*"
    r"|hardly|barely|rarely|scarcely|fails?|far from|at first|first (?:glance|sight)|initially"
    r"|thought|would (?:be|have)|less|least|refuse\w*|wrongly|says?|claims?|argue\w*|instead of"
    r"|runner-up|second|almost|nearly|otherwise|only|apart from|except|until|before"
    r"|tries|tried|trying|attempts?|attempted|pretends?|wants? to|needs?|had better|ought"
    r"|should (?:have|be more|be better)|lacks?|lacking|lesser|avoided|ignored|discarded|rejected"
    r"|better left|opposite|anything but|stretch|prize|award|used to|was going to"
    r"|first (?:pick|choice|thought)|(?:best|better) (?:thing|part|bit|feature|aspect)"
    r"|do(?:es)? best)\b",
    re.I,
)
_FAULT = re.compile(
    r"\b(hallucinat\w*|invent\w*|fabricat\w*|errors?|mistakes?|wrong\w*|false\w*|inaccura\w*"
    r"|incorrect\w*|mislead\w*|lies|lying|liar|made[- ]up|nonsense|flaws?|faults?|problems?"
    r"|contradict\w*|untrue|halluzin\w*)\b",
    re.I,
)
_WITHOUT_FAULT = re.compile(
    r"\b(?:fewer|fewest|no|without|zero|free of|avoids?|avoiding|less|least|lacks?)\s+(?:any\s+)?"
    r"(?:of\s+)?(?:\w+\s+){0,2}?(?=hallucinat|invent|fabricat|error|mistake|inaccura|incorrect"
    r"|flaw|fault|problem|wrong|false|contradict|made)\w+(?:\s+\w+)?",
    re.I,
)
_NOT_ITS = re.compile(
    r"\b(?:not|no|never|none|cannot|\w+n't|other|others|first|second|former|latter|unlike"
    r"|avoids?)\b",
    re.I,
)
_THAN = re.compile(
    r"\b(?:better than|superior to|preferable to|over|rather than|beats|outperforms|surpasses"
    rf"|defeats|{_QUALITY} than)\s*(?:the )?$",
    re.I,
)
_CONTRAST = re.compile(r"^\s*(?:but|however|yet|although|though|except|still)\b", re.I)
_ANY_CONTRAST = re.compile(
    r"\b(?:but|however|yet|although|though|while|whereas|on the other hand)\b", re.I
)
_CONCEDES = re.compile(
    r"^\W*(?:al|even )?though\b|^\W*(?:while|whereas|even if|if|despite|unless)\b", re.I
)
_ASIDE = re.compile(
    r"\s*\([^)]*\)\s*[\w']"
    r"|\s*(?:[,\u2013\u2014]|\s-+)\s*(?:which|who|the|an?|with|having|being)\b"
    r"[^,\u2013\u2014]*?(?:,|[\u2013\u2014]|\s-+\s)\s*(?!not\b|so\b|and\b|while\b|but\b)[\w']",
    re.I,
)
"""A remark between a name and what is said of it: "Response 1, which is longer, is worse"."""
_GOES_ON = re.compile(r"\s*(?:which|who|with|being|having|is|was|has|the)\b", re.I)
_NOBODY = re.compile(r"\b(?:nobody|no one)\b", re.I)
_WORSE = re.compile(
    r"\b(?:worse|worst|loses?|lost|fails?|failed|bad|poor|inferior|lesser|kidding"
    r"|(?:invents?|fabricates?|hallucinates?)\b|more (?:invented|errors|mistakes))\b",
    re.I,
)
_ABOUT_IT = re.compile(r"\s*[.!]?\s*(?:it|this|that|just|but|however)\b[^.!?\n]*", re.I)
"""A sentence behind a name that begins with a pronoun, or takes the name back."""
_SUPPOSED = re.compile(
    r"^\W*(?:if|unless|ignoring|disregarding|supposing|assuming|at a glance)\b", re.I
)
_RETRACTION = re.compile(
    r"\b(?:correction\b|scratch that|on second thoughts?|on reflection|i take (?:that|it) back"
    r"|actually, no\b|no, wait|wait,|let me correct)",
    re.I,
)
_LETTER_A = (
    r"A(?!\s+(?!is\b|was\b|wins\b|has\b|gets\b|beats\b|over\b|because\b|since\b|as\b|or\b|and\b"
    r"|does\b|names\b|describes\b|outperforms\b|more\b|better\b|to\b|invents\b|should\b)[a-z])"
)
"""The letter as a name; before other words in small letters it is an article."""
_SEEMS = re.compile(r"\b(?:seems?|seemed|appears?|appeared|looks?|looked)\b", re.I)


@dataclass(frozen=True)
class _Said:
    """What one clause says: 0, 1 or `TIED`, and how much that counts (the lowest number most)."""

    weight: int
    winner: int


def read_choice(text: str, names: Sequence[str], cut: bool = False) -> int | None:
    """Which response a free text says is better: 0, 1, or None for a tie.

    Thoughts are left out. See the module for what counts before what.

    Args:
        text: the judge's reply.
        names: what the two responses are called.
        cut: whether the reply was cut off. Then only a name that it begins with is read, as what
            it would have come to is unknown.

    Raises:
        UnreadableError: no verdict, or verdicts that do not agree.
    """
    plain = _plain(text)
    if cut:
        beginning = _bare(plain.split("\n", 1)[0], names)
        if beginning is None:
            raise UnreadableError("it is cut off before a verdict")
        return None if beginning == TIED else beginning
    turn = _RETRACTION.search(plain)
    if turn and _spots(plain[: turn.start()], names):
        raise UnreadableError("it takes something back")
    found = list(_verdicts(plain, names))
    if not found:
        raise UnreadableError("it does not say clearly which is better")
    highest = min(said.weight for said in found)
    winners = {said.winner for said in found if said.weight == highest}
    if len(winners) > 1:
        raise UnreadableError("its verdicts do not agree")
    other_respect = rf"(?:{_either(names)})\s+(?:for|on|in)\b"
    weighs = len(re.findall(other_respect, plain)) > 1 or _ANY_CONTRAST.search(plain)
    if highest == RESPECT and weighs:
        raise UnreadableError("it weighs respects without saying which response is better")
    winner = winners.pop()
    return None if winner == TIED else winner


def _plain(text: str) -> str:
    """The answer without thoughts and markup, with plain apostrophes."""
    answer = _REASONING.sub("", answer_of(text)).replace("\u2019", "'")
    answer = re.sub(r"<(?:answer|verdict)>", "\nAnswer: ", answer, flags=re.I)
    answer = re.sub(r"\\boxed\s*\{", "\nFinal answer: ", answer)
    # Of JSON every field is a line, so that reasons in one field are not read as the verdict.
    answer = re.sub(r"[{,]?\s*\"([\w ]{1,40})\"\s*:\s*", r"\n\1: ", answer)
    lines = _MARKUP.sub(" ", answer).splitlines()
    return "\n".join(line for each in lines if (line := " ".join(each.split()).strip(" -|,>")))


def _verdicts(plain: str, names: Sequence[str]) -> Iterator[_Said]:
    """All that the lines of a text say."""
    lines = plain.split("\n")
    for number, line in enumerate(lines):
        if labelled := _LABELLED.match(line):
            weight = FINAL if labelled["final"] else LABELLED
            rest = labelled["rest"] or (lines[number + 1] if number + 1 < len(lines) else "")
            winner = _bare(rest, names)
            if winner is not None:
                yield _Said(weight, winner)
                continue
        winner = _bare(line, names) if number == 0 or _is_alone(line, names) else None
        if winner is not None:
            yield _Said(PLAIN, winner)
            line = line[_leading(line, names) :]
        elif re.match(rf"\W*(?:{_either(names)})\s*:", line):
            continue  # a passage on one response, or the response itself once more
        yield from _sentences(line, names)


def _sentences(line: str, names: Sequence[str]) -> Iterator[_Said]:
    respect = re.match(r"^\W*(?:\d+\W+)?[\w /&-]{1,40}?(?::|\s-+)\s", line)
    about = bool(respect) and not _spots(respect[0], names) if respect else False
    for sentence in _SENTENCE_END.split(line):
        if sentence.rstrip().endswith("?"):
            continue
        labelled = _LABELLED.match(sentence)
        winner = _bare(labelled["rest"], names) if labelled else None
        if labelled and winner is not None:
            yield _Said(FINAL if labelled["final"] else LABELLED, winner)
            continue
        clauses = [clause for clause in _CLAUSE_START.split(sentence) if clause.strip(" .!")]
        for index, clause in enumerate(clauses):
            lead = ", ".join(clauses[:index])
            following = clauses[index + 1] if index + 1 < len(clauses) else ""
            said = _clause(clause, lead, following, names)
            if said is not None and about and said.weight == PLAIN:
                said = _Said(RESPECT, said.winner)
            if said is not None:
                yield said


def _clause(clause: str, lead: str, following: str, names: Sequence[str]) -> _Said | None:
    """What one clause says, with what stands before it in its sentence and the next clause."""
    spots = _spots(clause, names)
    if _CONCEDES.match(clause) or _SUPPOSED.match(lead or clause) or not spots:
        return None
    overall = _OVERALL.search(clause) or _OVERALL.search(lead.split(", ")[-1])
    alone = _bare(re.sub(r"^(?:but|and|so|thus|hence)\s+", "", clause, flags=re.I), names)
    if overall and alone is not None and not _GOES_ON.match(following):
        return _Said(LABELLED, alone)
    start, end, number = spots[0]
    before, after = clause[:start], clause[end:]
    others = [spot for spot in spots if spot[2] != number]
    praised = clause[end : others[0][0]] if others else after
    # "... is better than Response 1": what stands before the other name has to be just that.
    if others and not _THAN.search(praised):
        return None
    beaten = bool(others)
    looked = f"{before} {_THAN.sub('', praised) if others else praised}"
    looked = re.sub(r"^\s*(?:but|and|so|however)\b", "", looked, flags=re.I)
    looked = _WITHOUT_FAULT.sub("", looked)
    rest = clause[others[0][1] :] if others else ""
    if _DOUBT.search(looked) or _FAULT.search(_WITHOUT_FAULT.sub("", f"{looked} {rest}")):
        return None
    blamed = _FAULT.search(_WITHOUT_FAULT.sub("", following)) and not _NOT_ITS.search(following)
    if blamed and not _names_other(following, number, names):
        return None
    if _NOBODY.search(following):
        return None
    turned = _CONTRAST.match(following) and not _names_other(following, number, names)
    if turned or (_SEEMS.search(looked) and _CONTRAST.match(following)):
        return None
    return _weighed(before, praised, rest, lead, number, bool(overall), beaten)


def _weighed(
    before: str, praised: str, rest: str, lead: str, number: int, overall: bool, beaten: bool
) -> _Said | None:
    """The clause's weight, if it praises a response."""
    text = f"{before} {praised}"
    better = _BETTER.search(text) is not None
    respect = _IN_ONE_RESPECT.search(text) is not None
    if not (better or respect or beaten):
        return None
    if overall:
        return _Said(LABELLED, number)
    limited = _LIMITED.search(f"{lead} {before} {praised} {rest}") or _BETTER_DONE.search(praised)
    possessive = praised.startswith("'s")
    only_respect = respect and not better
    return _Said(RESPECT if limited or only_respect or possessive else PLAIN, number)


def _names_other(text: str, number: int, names: Sequence[str]) -> bool:
    return any(spot[2] != number for spot in _spots(text, names))


def _spots(text: str, names: Sequence[str]) -> list[tuple[int, int, int]]:
    """Start, end and number of every name in a text, in order."""
    return sorted(
        (match.start(), match.end(), number)
        for number, name in enumerate(names)
        for match in re.finditer(rf"(?<!\w){_pattern(name)}(?![\w-]|\.\d)", text)
    )


def _pattern(name: str) -> str:
    if name == "A":
        return _LETTER_A
    words = r"\s+".join(map(re.escape, name.split()))
    return words if len(name) <= SHORT_NAME else f"(?i:{words})"


def _either(names: Sequence[str]) -> str:
    return "|".join(map(_pattern, names))


def _leading(line: str, names: Sequence[str]) -> int:
    match = re.match(rf"\W*(?:{_either(names)}|(?i:{TIE}))", line)
    return match.end() if match else 0


def _is_alone(line: str, names: Sequence[str]) -> bool:
    return re.fullmatch(rf"\W*(?:{_either(names)}|(?i:{TIE}))\W*", line) is not None


def _bare(text: str, names: Sequence[str]) -> int | None:
    """The name or tie that a text begins with, if nothing there takes it back; else None.

    It has to end there, or be followed by a reason or by a new sentence.
    """
    after = (
        r"\s*(?:$|[.!](?:\s|$)|\(|[,;](?!\s*(?:but|or\b|and\b|nor|not|yet|although|though|however"
        r"|\d|unlike\b|compared\b))|[\u2013\u2014]|\s-+\s|(?:because|since|as|over)\b(?!-|\s+well)"
        r"|overall(?=\s*(?:$|[.,;!])))"
    )
    for number, name in [*enumerate(names), (TIED, TIE)]:
        wanted = f"(?i:(?:a )?{TIE})" if number == TIED else _pattern(name)
        match = re.match(rf"\W*(?:(?i:the )?){wanted}(?![\w-]|\.\d){after}", text)
        if match is None:
            continue
        sentence = _SENTENCE_END.split(text[match.start() :])[0]
        clause = re.split(r"[.,;!(\u2013\u2014]|\s-+\s|\b(?:because|since|as)\b", sentence)[0]
        rest = sentence[len(clause) :]
        named_too = re.match(rf"\s*[,;]\s*(?:{_either(names)})(?!\w)", rest)
        faulty = _FAULT.search(_WITHOUT_FAULT.sub("", clause)) is not None
        behind = text[match.start() + len(sentence) :]
        about = _ABOUT_IT.match(behind)
        turned = about is not None and _turned(about[0], names, number)
        blamed = turned or (_taken_back(rest) and not _spots(rest, names))
        unsaid = named_too or faulty or blamed or _ASIDE.match(rest) or _NOBODY.search(rest)
        return None if unsaid or sentence.rstrip().endswith("?") else number
    return None


def _turned(sentence: str, names: Sequence[str], number: int) -> bool:
    """Whether the sentence behind a name blames it, or turns to praise of the other."""
    if number == TIED:
        return False
    if re.match(r"\W*(?:just|but|however)\b", sentence, re.I):
        return "kidding" in sentence or _names_other(sentence, number, names)
    return _taken_back(sentence)


def _taken_back(reason: str) -> bool:
    """Whether what follows a name blames it, and so is no reason to prefer it."""
    plain = _WITHOUT_FAULT.sub("", reason)
    blamed = _FAULT.search(plain) or _WORSE.search(plain)
    return bool(blamed) and not _NOT_ITS.search(reason)
