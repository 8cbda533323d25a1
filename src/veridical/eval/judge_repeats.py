"""The same questions put to a judge several times: how much its replies vary by themselves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veridical.scoring.statistics.judges import judge_variance


@dataclass(frozen=True)
class Repeats:
    """What a judge replied to each question, again and again in the same order of answers.

    Attributes:
        said: for each question what its readable replies say.
        numbers: the same as numbers, where it can be one.
    """

    said: Sequence[Sequence[Any]]
    numbers: Sequence[Sequence[float]]

    def as_about(self) -> dict[str, str | float]:
        """Entries for `scores.json`; none where fewer than two questions have two replies."""
        several = [own for own in self.said if len(own) > 1]
        if len(several) < 2:
            return {}
        same = sum(all(one == own[0] for one in own) for own in several)
        found = judge_variance(self.numbers)
        about: dict[str, str | float] = {
            "judge_again/questions": float(len(several)),
            "judge_again/same_share": same / len(several),
        }
        if found is not None:
            about |= {
                "judge_again/disagreement": found.disagreement,
                "judge_again/agreement": found.agreement,
                "judge_again/standard_error": found.disagreement / math.sqrt(found.answers),
            }
        return about

    @property
    def lines(self) -> list[str]:
        """The same in words."""
        about = self.as_about()
        if not about:
            return []
        line = (
            f"Of {about['judge_again/questions']:.0f} questions that the judge was asked again in "
            f"the same order, it said the same to {float(about['judge_again/same_share']):.1%}."
        )
        if "judge_again/disagreement" not in about:
            return [line]
        return [
            f"{line} Replies to one question differ by {about['judge_again/disagreement']:.3g} "
            f"(standard deviation; agreement {about['judge_again/agreement']:.2f}), which gives a "
            f"mean of first replies a standard error of "
            f"{about['judge_again/standard_error']:.2g}."
        ]


def number_in(said: object, place: int) -> float | None:
    """What a reply says, as a number: itself, or the length of a list; None for a text."""
    if isinstance(said, int | float):
        return float(said)
    return float(len(said)) if isinstance(said, list) else None


def repeats_of(
    number: Callable[[Any, int], float | None],
    judged: Sequence[Sequence[Mapping[str, Any]]],
    widths: Sequence[int],
) -> Repeats:
    """What was replied to each question, each time it was asked.

    Args:
        number: what a reply to the n-th question about a row says, as a number.
        judged: for each row {"read", "problem"} of every reply: to all its questions, then again.
            Two replies with another `first` are to other questions.
        widths: how many questions each row has.
    """
    said: list[list[Any]] = []
    numbers: list[list[float]] = []
    for own, width in zip(judged, widths, strict=True):
        found: dict[tuple[int, object], list[Any]] = defaultdict(list)
        for index, one in enumerate(own):
            if not one["problem"]:
                found[index % width, one.get("first")].append(one["read"])
        for (place, _), replies in found.items():
            said.append(replies)
            known = [number(one, place) for one in replies]
            numbers.append([one for one in known if one is not None])
    return Repeats(said, numbers)
