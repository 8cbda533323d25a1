"""What a judge would be asked, and what that would cost at most, before anybody is asked."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from veridical.eval.asks import Asks, Row
from veridical.eval.evaluation import Evaluation
from veridical.judges.endpoint import endpoint_settings
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted

CHARACTERS = 4
"""Of a token of English: a rule of thumb. Other languages have fewer."""
UNKNOWN = "An answer that is not known yet."


@dataclass(frozen=True)
class JudgeCost:
    """An estimate.

    Attributes:
        questions: to the judge, each asked once.
        images: that it is shown.
        read: tokens of the questions, without images.
        written: tokens of the replies, at most.
        dollars: for both, None without prices.
    """

    questions: int
    images: int
    read: int
    written: int
    dollars: float | None

    def __add__(self, other: JudgeCost) -> JudgeCost:
        """Both together, at one price list."""
        dollars = None
        if self.dollars is not None and other.dollars is not None:
            dollars = self.dollars + other.dollars
        return JudgeCost(
            self.questions + other.questions, self.images + other.images, self.read + other.read,
            self.written + other.written, dollars,
        )  # fmt: skip

    @property
    def line(self) -> str:
        """The estimate as a sentence or two."""
        images = counted(self.images, "images")
        shown = f", with {images} that are not counted" if self.images else ""
        without = " without the images" if self.images else ""
        # It is the most, so it is not rounded down; 0.07 * 100 is a little above 7.
        cents = ceil(round((self.dollars or 0.0) * 100, 6))
        price = "" if self.dollars is None else f", at most ${cents / 100:,.2f}{without}"
        return (
            f"The judge would be asked {counted(self.questions, 'questions')}: some {self.read:,} "
            f"tokens read ({CHARACTERS} characters each){shown}, at most {self.written:,} written"
            f"{price}. Nobody was asked. Replies that can't be read are asked for again, which "
            "costs more."
        )


def judge_cost(asks: Asks[Any], options: Any, evaluation: Evaluation) -> JudgeCost:
    """What the judge of an evaluation would be asked; answers not known yet are as long as allowed.

    Raises:
        UserError: the benchmark has no judge here.
    """
    grader, grading = asks.grader, evaluation.grading
    if grader is None or grading.judge is None:
        raise UserError("--dry-run says what a judge would cost. Name one with --judge.")
    rows, length = _rows(asks, options, evaluation)
    once = [one for row in rows for one in grader.ask(options, evaluation, row)]
    asked = once * grading.judge_repeats
    read = sum(ceil(len(one.text) / CHARACTERS) + length * one.text.count(UNKNOWN) for one in asked)
    written = len(asked) * (grading.judge_tokens or grader.max_new_tokens)
    limits = endpoint_settings(grading.endpoint).limits
    dollars = None
    if limits.input_price is not None or limits.output_price is not None:
        prices = limits.input_price or 0.0, limits.output_price or 0.0
        dollars = (read * prices[0] + written * prices[1]) / 1e6
    return JudgeCost(len(asked), sum(len(one.images) for one in asked), read, written, dollars)


def _rows(asks: Asks[Any], options: Any, evaluation: Evaluation) -> tuple[list[Row], int]:
    """Rows of answers, and how many tokens an answer may still add."""
    if evaluation.model is None:
        return list(asks.match(options, evaluation).rows), 0
    rows: list[Row] = [
        {**item.row, "answer": UNKNOWN} for item in asks.read(options, evaluation).items
    ]
    if asks.follow_up is not None:
        later = [asks.follow_up(options, row) for row in rows]
        rows += [{**item.row, "answer": UNKNOWN} for item in later if item is not None]
    return rows, evaluation.asking.max_new_tokens or 0
