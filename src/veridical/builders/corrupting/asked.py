"""Mistakes by a model that sees the text alone (Amirloo et al. 2024, section 5.3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from veridical.builders._answers import ChosenAnswer
from veridical.data.messages import user_message
from veridical.data.prompts import Prompt
from veridical.data.text.units import same_words, words_of
from veridical.judges.prompted import Asker, JudgeQuestion, JudgeReply, ReplyOutcome, ask_until_read
from veridical.judges.prompts import UnreadableError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text, require_file
from veridical.runtime.ranges import ABOVE_ZERO, COUNT, Range, check_ranges

PROMPT = Path(__file__).with_name("prompt.md")
SLOTS = ("{question}", "{answer}")
SHORT = 8
"""Words up to which an answer may change its length freely: "A." for "Two dogs" (our choice)."""
_BLOCK = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_MARKS = re.compile(r"<\|[^|>]{1,40}\|>|</?s>|<image>|[\x00-\x08\x0e-\x1f]")
"""Special tokens, the image's tag and control characters: training refuses rows with them."""
_TELLS = re.compile(
    r"\b(?:(?:factually|deliberately) (?:incorrect|wrong)|hallucinat\w+|corrupted|as an ai\b"
    r"|(?:i'm|i am) sorry|i can(?:no|')t\b|(?:modified|rewritten|altered|incorrect) answer"
    r"|(?:false|untrue|incorrect|inaccurate) (?:statement|detail|description|claim)s?)",
    re.IGNORECASE,
)
"""Phrases that give the mistake away: pairs with such a mark align worse (its appendix C.1)."""


@dataclass(frozen=True)
class MistakeWording:
    """How a model is asked for mistakes.

    Attributes:
        prompt: text with {question} and {answer}, that asks for a reply between <answer> and
            </answer>; the one that ships with the package if not set.
        attempts: how often a reply is asked for at most, until one can be used.
        temperature: of the first reply.
        retry_temperature: of later ones.
        max_new_tokens: limit of one reply, in tokens.
        longest: words of a corrupted answer by those of the true one, at most; at least the
            inverse. Answers of up to 8 words may change their length freely up to 8.
        batch_size: answers at once, of a local model.
        endpoint: url, key_variable, concurrency, retries, timeout (seconds), input_price and
            output_price (dollars for a million tokens), max_dollars, max_tokens, cache,
            cache_gigabytes.
    """

    prompt: Path | None = None
    attempts: Annotated[int, COUNT] = 3
    temperature: Annotated[float, Range(0, 100)] = 0.7
    retry_temperature: Annotated[float, Range(0, 100)] = 1.0
    max_new_tokens: Annotated[int, COUNT] = 1024
    longest: Annotated[float, ABOVE_ZERO] = 1.5
    batch_size: Annotated[int, COUNT] = 8
    endpoint: dict[str, object] | None = None

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UserError: names the option.
        """
        check_ranges(self)
        if self.longest < 1:
            raise UserError(f"--longest is {self.longest:g}; give 1 or more.")
        self.text()

    def text(self) -> str:
        """The prompt with its two slots.

        Raises:
            UserError: the file is missing, or lacks a slot.
        """
        if self.prompt is not None:
            require_file(self.prompt, "--prompt")
        path = self.prompt or PROMPT
        text = read_text(path).strip()
        missing = [slot for slot in SLOTS if text.count(slot) != 1]
        if missing:
            raise UserError(f"{path}: {missing[0]} has to stand in it exactly once.")
        return text

    @property
    def sha256(self) -> str:
        """Of the prompt."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def corrupt_by_asking(
    ask: Asker, answers: Sequence[ChosenAnswer], wording: MistakeWording
) -> list[ReplyOutcome[str]]:
    """Have a model corrupt some answers; a reply that can't be used is asked for again."""
    template = wording.text()
    questions = [
        JudgeQuestion(Prompt(answer.id, (), [user_message(_filled(template, answer), images=0)]))
        for answer in answers
    ]

    def read(number: int, reply: JudgeReply) -> str:
        if reply.cut:
            raise UnreadableError("it is cut off")
        return read_corrupted(reply.text, answers[number].text, wording.longest)

    return ask_until_read(ask, questions, read, wording.attempts)


def read_corrupted(reply: str, true: str, longest: float) -> str:
    """The corrupted answer of a reply.

    Raises:
        UnreadableError: it is not there, changes nothing, is too long or too short, or gives itself
            away.
    """
    found = [block.strip() for block in _BLOCK.findall(reply)]
    if len(found) != 1:
        raise UnreadableError(f"{len(found)} passages stand between <answer> and </answer>")
    text: str = found[0]
    if not text:
        raise UnreadableError("the corrupted answer is empty")
    if same_words(text, true):
        raise UnreadableError("the answer is not changed")
    was, now = len(words_of(true)), len(words_of(text))
    if now > max(longest * was, SHORT) or (was > SHORT and now < was / longest):
        raise UnreadableError(f"the answer had {was} words and now has {now}")
    mark = next((one[0] for one in _MARKS.finditer(text) if one[0] not in true), None)
    if mark is not None:
        raise UnreadableError(f"{mark!r} is a mark of a template, no text")
    told = _TELLS.search(text)
    if told and not _TELLS.search(true):
        raise UnreadableError(f'"{told[0]}" gives the mistake away')
    return text


def _filled(template: str, answer: ChosenAnswer) -> str:
    # One pass, so that a slot's name within a text stays as it is.
    given = dict(zip(SLOTS, (answer.question, answer.text), strict=True))
    return re.sub("|".join(map(re.escape, SLOTS)), lambda slot: given[slot[0]], template)
