"""What every judge takes and gives.

A judge is a function on a list of cases: it may score them in batches, in turn or side by side.
It sees all responses of a case together, and says of each what it is worth and why. What it needs
besides (a model, truth about the images, an endpoint) is bound when it is made, as
`judges.exact.exact_judge` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from veridical.data.prompts import Prompt


@dataclass(frozen=True)
class Case:
    """Responses to one prompt.

    Attributes:
        prompt: what was asked, with what a judge may be told; its id keys whatever the judge
            draws at random.
        responses: texts, in the record's order.
        image_names: names by which a judge may look the images up: file names without suffix.
    """

    prompt: Prompt
    responses: Sequence[str]
    image_names: Sequence[str] = ()


@dataclass(frozen=True)
class Cost:
    """What judging took.

    Attributes:
        input_tokens: read by a model.
        output_tokens: written by a model.
        dollars: charged by an endpoint.
        replies: that a model gave, those that could not be read included.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    replies: int = 0

    def __add__(self, other: Cost) -> Cost:
        """What both took."""
        return Cost(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.dollars + other.dollars,
            self.replies + other.replies,
        )


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one case.

    Attributes:
        ratings: for each response, aspect to value; higher is better unless the aspect says
            otherwise. Empty if the case could not be scored: never zeros in disguise.
        reasons: for each response, why; or one text on all of them together.
        cost: of this case.
        problem: why the case could not be scored; "" if it was.
    """

    ratings: tuple[Mapping[str, float], ...] = ()
    reasons: tuple[str, ...] = ()
    cost: Cost = Cost()
    problem: str = ""


class Judge(Protocol):
    """A verdict for each case, in order."""

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        """Judge the cases."""
        ...


@dataclass(frozen=True)
class PairwiseVerdict:
    """What a judge says of two responses that it saw in one order.

    Attributes:
        better: 0 or 1; None for a tie, and where there is a problem.
        margin: how much better the first is, where the judge has a number (log-odds); else None.
        reason: why.
        cost: of this look.
        problem: why they could not be compared; "" if they were.
    """

    better: int | None = None
    margin: float | None = None
    reason: str = ""
    cost: Cost = Cost()
    problem: str = ""


class PairwiseJudge(Protocol):
    """A look at each case, in order; each case has two responses."""

    def __call__(self, cases: Sequence[Case]) -> list[PairwiseVerdict]:
        """Compare the two responses of each case."""
        ...
