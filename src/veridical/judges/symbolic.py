"""Rewards that are computed, not judged: the expected short answer, the length, a missing end.

Sun et al. 2023 add such rewards to a reward model's; their released code rewards yes/no questions
against the record's own label. Here the expected answer is the record's, whatever it says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RIGHT_CHOICE = 1.0
RIGHT_YES_NO = 0.5
"""Right minus wrong is worth the same for both: a choice is right or nothing (as in that code)."""

_CHOICE = re.compile(r"\(?([A-Ha-h])\)?(?:[.):,]|\s|$)")
_NAMED = re.compile(r"(?i:correct (?:option|answer) is|answer is|answer:)\s*\(?([A-H])\b")
_YES_NO = re.compile(r"(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Symbolic:
    """Rewards beside the judge's.

    Attributes:
        no_end_penalty: taken off a response that has no end, because the limit cut it (Sun et al.
            have 8, on the scale of their reward model).
        length_penalty: taken off for the longest response there may be, and off shorter ones by
            their share of its tokens; below 0 it rewards length.
        answer_reward: what saying the record's `expected_answer` is worth: a whole one for the
            right letter of a multiple choice; for yes and no half of it, taken off if wrong.
    """

    no_end_penalty: float = 0.0
    length_penalty: float = 0.0
    answer_reward: float = 0.0


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
    if cut:
        reward -= rewards.no_end_penalty
    if expected is not None and rewards.answer_reward:
        reward += rewards.answer_reward * answer_reward(text, expected)
    return reward


def answer_reward(text: str, expected: str) -> float:
    """How right a short answer is: 1 or 0 for a letter, 0.5 or -0.5 for yes and no.

    An expected answer of another kind, and a response that can't be read as one, is worth 0.
    """
    if wanted := _YES_NO.match(expected.strip()):
        said = _YES_NO.match(text.strip())
        if said is None:
            return 0.0
        right = said[1].lower() == wanted[1].lower()
        return RIGHT_YES_NO if right else -RIGHT_YES_NO
    letter = _CHOICE.match(expected.strip())
    if letter is None:
        return 0.0
    # "A dog ..." begins with an article, not with a choice.
    begins = re.match(r"\(?([A-H])(?:[.):]|\)?\s*$)", text.strip())
    found = _NAMED.search(text) or begins
    right = found is not None and found[1].upper() == letter[1].upper()
    return RIGHT_CHOICE if right else 0.0
