"""Which option of a multiple-choice question an answer names."""

from __future__ import annotations

import re
from collections.abc import Mapping

NOTHING = "Z"
"""What the published rule calls an answer that refuses."""
# The beginnings by which VLMEvalKit knows a refusal.
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_FAILED = "Failed to obtain answer via API"
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.I)
LAST = 4
"""An option's letter counts among so many last words."""

_LAYOUT = re.compile(r"<[^<>]*>|\\boxed|[*_`\"#{}\u201c\u201d]")
_SAID = re.compile(
    r"(?:(?:the |my )?(?:final |correct |best |right )?(?:answer|option|choice)(?: would be| is|:)*"
    r"\s*(?:option |choice )?)?\(?([a-z])(?:\)|[.:,]|$|(?=\s+(?:is|because|since)\b))",
    re.I,
)

_NOT = re.compile(
    r"(?:(?:the )?(?:answer|option|choice)\s*)?\(?[a-z]\)?\s+(?:is|was)(?P<no>\s+not|n't)?\s+"
    r"(?:(?:clearly|definitely|also)\s+)?(?P<word>\w+)[^.,;]*[.,;]?\s*(?:(?:and|but|so)\s+)?",
    re.I,
)
"""What a sentence says of an option, up to the next one."""
WRONG = ("incorrect", "wrong", "false")


def official_option(answer: str, options: Mapping[str, str], verbose: bool = False) -> str | None:
    """The letter that VLMEvalKit reads, without its model for what is left.

    In this order: a refusal is "Z"; exactly one option's letter among the words, and among the
    last four; "answer is X"; exactly one option whose text is in the answer, if the answer is at
    most twice as long as all options. The article "A" counts as a letter.

    Args:
        answer: what the model said.
        options: text by letter.
        verbose: whether its environment variable VERBOSE is set. Then "A" among more than three
            words is taken for the article, and no letter is read.
    """
    return _official_letter(answer, options, verbose) or _official_text(answer, options)


def _official_letter(answer: str, options: Mapping[str, str], verbose: bool) -> str | None:
    if _FAILED in answer:
        return None
    if any(refusal in answer for refusal in _REFUSALS):
        return NOTHING
    words = answer.translate(_MARKS).split()
    named = [letter for letter in options if letter in words]
    if verbose and len(named) == 1 and "A" in words and len(words) > 3:
        return None
    if len(named) == 1 and words.index(named[0]) >= len(words) - LAST:
        return named[0]
    if not named and NOTHING in words:
        return NOTHING
    found = _ANSWER_IS.search(answer)
    return found[1].upper() if found and found[1].upper() in options else None


def _official_text(answer: str, options: Mapping[str, str]) -> str | None:
    if len(answer) > 2 * sum(map(len, options.values())):
        return None
    lower = answer.lower()
    named = [letter for letter, text in options.items() if text.lower() in lower]
    return named[0] if len(named) == 1 else None


def read_option(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer names; None where that is unclear (our choice).

    In this order: a letter at the beginning of the first or the last line, after "Answer:" and the
    like, not as the article in "A dog", and not where it "is wrong"; the whole answer is one
    option's text; exactly one option's text is in the answer as words of their own, and is not part
    of another's that is.

    Args:
        answer: what the model said.
        options: text by letter.
    """
    lines = [
        " ".join(line.split())
        for line in _LAYOUT.sub("", answer).strip().splitlines()
        if line.strip()
    ]
    if not lines:
        return None
    letters = {_letter(line, options) for line in lines[:1] + lines[-1:]} - {None}
    if len(letters) == 1:
        return letters.pop()
    if letters:
        return None
    said = _bare(" ".join(lines))
    same = [letter for letter, text in options.items() if _bare(text) == said]
    if len(same) == 1:
        return same[0]
    named = {
        letter: _bare(text) for letter, text in options.items() if _stands_in(_bare(text), said)
    }
    longest = [
        letter
        for letter, text in named.items()
        if not any(text != other and _stands_in(text, other) for other in named.values())
    ]
    return longest[0] if len(longest) == 1 else None


def _letter(line: str, options: Mapping[str, str]) -> str | None:
    found = _SAID.match(_without_denials(line))
    if found is None:
        return None
    letter = found[1].upper()
    return letter if letter in options else None


def _without_denials(line: str) -> str:
    """A line without sentences at its beginning that say which option is not right."""
    while found := _NOT.match(line):
        if found["word"].lower() not in WRONG and not found["no"]:
            break
        line = line[found.end() :]
    return line


def _bare(text: str) -> str:
    """A text's words; of a text without one, its signs. A minus stays before its number."""
    words = re.sub(r"(?!(?<!\w)-(?=\d))[^\w\s]", " ", text.lower()).split()
    return " ".join(words or text.lower().split())


def _stands_in(text: str, whole: str) -> bool:
    return bool(text) and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", whole) is not None
