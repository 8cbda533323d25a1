"""Rewards that are computed, not judged: the expected short answer, the length, a missing end.

Sun et al. 2023 add such rewards to a reward model's; their released code rewards yes/no questions
against the record's own label. Here the expected answer is the record's, whatever it says.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated

from veridical.data.text.thoughts import answer_of
from veridical.runtime.errors import UserError
from veridical.runtime.ranges import WEIGHT, Range, check_ranges

RIGHT_CHOICE = 1.0
RIGHT_YES_NO = 0.5
"""Right minus wrong is worth the same for both: a choice is right or nothing (as in that code)."""

_WHOLE_LETTER = re.compile(r"\(?([A-Ha-h])[).:]{0,2}")
_ALONE = re.compile(r"\(?([A-Ha-h])[).:,!]{0,2}")
_YES_NO_EXPECTED = re.compile(r"(yes|no)(?:[.!]?$|\s*,)", re.I)
_YES_NO_SAID = re.compile(
    r"(yes|no)(?=$|[.!](?:\s+(?!\d)|$)|\s*[,;:\u2013\u2014]|\s-+\s|\n"
    r"|\s+(?:it|there|i|he|she|they|we|you|this|that|these|those|because)\b)",
    re.I,
)
# "No, wait, yes."
_TAKEN_BACK = re.compile(
    r"\b(?:wait|actually|sorry|i mean|scratch that|correction|rather|on second thoughts?)\b", re.I
)
_EITHER = re.compile(r"\byes\W+(?:or\W+|and\W+)?no\b|\bno\W+(?:or\W+|and\W+)?yes\b", re.I)
_MARKUP = re.compile(r"[*_`#$\"\u201c\u201d{}\[\]]|</?\w+>")
_LABEL = re.compile(
    r"(?:\banswer|\b(?:correct|right|best)\s+(?:option|choice|one)"
    r"|^\W*(?:final\s+)?(?:option|choice|verdict))"
    r"\s*(?:is|would be|should be)?\s*(?::|\bis\b|(?<=is)|(?<=be))\s*"
    r"|\bI(?:'d| would| will)?\s+(?:choose|pick|select|go with)\s+",
    re.I | re.M,
)
_STATED = re.compile(
    r"(?i:(?:option|choice|answer)\s+)?\(?([A-H])\)?"
    r"(?=$|[.):,;!\n\u2013\u2014]|\s-+\s|\s+(?:because|since|is (?:correct|right|the))\b|\s*\n)"
)
_ANY_LETTER = re.compile(
    r"(?<![\w'])(?<!\bnot )(?<!\bnot \()\(?"
    r"([B-H](?![\w'])|A(?![\w'])(?!\s+(?!(?:or|and|is|because|since|as)\b)[a-z]))"
)
# "The wrong answer is B", "The answer isn't B", "... is anything but B".
_OF_OTHERS = re.compile(
    r"\b(?:wrong|incorrect|false|bad|worst|poorest|rejected|least(?:\s+\w+)?|unlikel\w+)\s+\Z", re.I
)
_DENIED = re.compile(
    r"n't\b|\b(?:not|neither|never|except|excluding|far from|(?:other|rather) than|instead of"
    r"|(?:any|every|all)\w*(?: \w+){0,3} but)\b",
    re.I,
)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten".split()  # noqa: SIM905
    )
}


@dataclass(frozen=True, kw_only=True)
class Symbolic:
    """Rewards beside the judge's.

    Attributes:
        no_end_penalty: taken off a response that has no end, because the limit cut it: the judge
            takes it for a whole one. 1 is one deviation of the judge's scores where these are
            standardized (our choice; Sun et al. have 8, on the scale of their reward model).
        length_penalty: taken off for the longest response there may be, and off shorter ones by
            their share of its tokens; below 0 it rewards length.
        overlong_penalty: taken off a response of `max-new-tokens`; off shorter ones less and less,
            down to 0 where the last `overlong-share` of these tokens begins (DAPO's soft overlong
            punishment).
        overlong_share: where that penalty begins, as a share of `max-new-tokens` from their end
            (DAPO: 4,096 of 20,480).
        answer_reward: what saying the record's `expected_answer` is worth: a whole one for the
            right letter of a multiple choice and for the right short answer; for yes and no half
            of it, taken off if wrong.
    """

    no_end_penalty: float = 1.0
    length_penalty: float = 0.0
    answer_reward: float = 0.0
    overlong_penalty: Annotated[float, WEIGHT] = 0.0
    overlong_share: Annotated[float, Range(0, 1, above=True)] = 0.2

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UserError: names the option.
        """
        check_ranges(self)
        if not self.overlong_penalty and self.overlong_share != Symbolic.overlong_share:
            raise UserError(
                "--overlong-share says where --overlong-penalty begins, which is 0. Set "
                "--overlong-penalty above 0, or leave --overlong-share out."
            )


def symbolic_reward(
    rewards: Symbolic, text: str, tokens: int, limit: int, cut: bool, expected: str | None
) -> float:
    """All symbolic rewards of one response.

    Args:
        rewards: what counts how much.
        text: of the response.
        tokens: that it has.
        limit: that it could have had.
        cut: whether the limit cut it.
        expected: the record's expected answer, if it has one.
    """
    reward = -rewards.length_penalty * tokens / limit
    reward -= rewards.overlong_penalty * overlong(tokens, limit, rewards.overlong_share)
    if cut:
        reward -= rewards.no_end_penalty
    if expected is not None and rewards.answer_reward:
        reward += rewards.answer_reward * answer_reward(text, expected)
    return reward


def overlong(tokens: int, limit: int, share: float) -> float:
    """How far a response reaches into the last tokens of the limit (DAPO, section 3.4).

    Args:
        tokens: that it has.
        limit: that it could have had.
        share: of the limit that is penalized.

    Returns:
        0 to 1.
    """
    last = share * limit
    return min(1.0, max(0.0, (tokens - (limit - last)) / last))


def answer_reward(text: str, expected: str) -> float:
    """How right a short answer is: 1 or 0, for yes and no 0.5 or -0.5, and 0 if it says neither.

    What is expected decides how the response is read: as yes or no where that is all, or is
    followed by a comma; as a choice where it is one letter from A to H and nothing else; else as a
    short answer, which has to be the same after normalization (`normalized_answer`).
    """
    wanted, said = _plain(expected), _plain(answer_of(text))
    if yes_no := _YES_NO_EXPECTED.match(wanted):
        verdict = said_yes_or_no(said)
        if verdict is None:
            return 0.0
        return RIGHT_YES_NO if verdict == yes_no[1].lower() else -RIGHT_YES_NO
    if letter := _WHOLE_LETTER.fullmatch(wanted):
        return RIGHT_CHOICE if stated_letter(said) == letter[1].upper() else 0.0
    goal = normalized_answer(wanted)
    labeled = re.sub(r"^(?:final\s+)?answer\s*:\s*", "", said, flags=re.I)
    return (
        RIGHT_CHOICE
        if goal and goal in (normalized_answer(said), normalized_answer(labeled))
        else 0.0
    )


def said_yes_or_no(text: str) -> str | None:
    """The yes or no that a text begins with or labels as its answer; None if it says neither.

    "No parking" and "Yes or no" say neither, and "No, wait, yes" both, which counts as neither.
    """
    labeled = [_yes_no(text[one.end() :]) for one in _labels(text)]
    said = [one for one in labeled if one] or [_yes_no(text)]
    corrected = [_yes_no(text[one.end() :].lstrip(" ,:;.-")) for one in _TAKEN_BACK.finditer(text)]
    found = set[str]().union(*said, *corrected)
    return found.pop() if len(found) == 1 else None


def stated_letter(text: str) -> str | None:
    """The one letter, A to H, that a text gives as its choice; None for none or for several.

    A letter counts if it is all there is, or stands at the beginning or behind a label ("The answer
    is") and is followed by a mark or a reason, as in "B.", "(B) a dog", "Option B", "B, because".
    "A dog" begins with an article. A second letter beside it earns nothing.
    """
    if whole := _ALONE.fullmatch(text):
        return whole[1].upper()
    labels = _labels(text)
    if labels:
        said = [re.split(r"(?<=[.!?])(?:\s|$)|\n", text[one.end() :])[0] for one in labels]
        if any(one.endswith("?") for one in said):
            return None
        stated = [_letters(one) for one in said]
        final = [letters for letters in stated if letters]
        return final[0][0] if final and all(one == final[0][:1] for one in final) else None
    found = _STATED.match(text)
    return found[1] if found and len(set(_letters(text))) == 1 else None


def normalized_answer(text: str) -> str:
    """A short answer as it is compared: no case, punctuation, articles or extra white space.

    Numbers from zero to ten become digits. This is the usual normalization of VQA and SQuAD. Marks
    within numbers stay: 3.5 is not 35.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = re.sub(r"[\u2012\u2013\u2212](?=\d)", "-", folded)  # signs of a minus
    kept = re.sub(r"[.,:](?!\d)|(?<!\d)[,:]", " ", folded)
    kept = re.sub(r"(?<=\d),(?=\d{3}\b)", "", kept)
    marks = [
        " " if unicodedata.category(one)[0] == "P" and one not in ".,:%-'" else one for one in kept
    ]
    words = re.sub(r"(?<=[^\W\d])-|-(?!\d)", " ", "".join(marks)).replace("'", "")
    found = _ARTICLES.sub(" ", words).split()
    return " ".join(_NUMBERS.get(word, word) for word in found)


def _labels(text: str) -> list[re.Match[str]]:
    """Where a text says that its answer follows."""
    return [one for one in _LABEL.finditer(text) if not _OF_OTHERS.search(text[: one.start()])]


def _yes_no(text: str) -> set[str]:
    """What a text begins with: yes, no, both or neither."""
    if _EITHER.match(text):
        return {"yes", "no"}
    found = _YES_NO_SAID.match(text)
    return {found[1].lower()} if found else set()


def _letters(text: str) -> list[str]:
    """The letters that a text names as choices; an article is none, and what is denied neither."""
    if alone := _ALONE.fullmatch(text.strip()):
        return [alone[1].upper()]
    found = list(_ANY_LETTER.finditer(text))
    if not found or _DENIED.search(text[: found[0].start()]):
        return []
    return list(dict.fromkeys(match[1] for match in found))


def _plain(text: str) -> str:
    """A text without markup, wide letters and white space at its ends."""
    text = unicodedata.normalize("NFKC", text).replace("\u3002", ".")
    boxed = re.sub(r"\\boxed\s*\{(?:\\text\s*\{)?([^{}]*)\}+", r"\nAnswer: \1\n", text)
    return _MARKUP.sub("", boxed.replace("\u2019", "'")).strip()
