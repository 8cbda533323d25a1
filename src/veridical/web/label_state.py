"""What the stored events amount to: the state of each comparison for each annotator."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

Spans = tuple[tuple[int, int], ...]
WORSE = ("first", "second", "same", "unsure", "broken")
"""Which answer hallucinates more."""
BETTER = ("first", "second", "same", "unsure")
"""Which answer is more helpful."""
OTHER = {"first": "second", "second": "first"}
LONGEST_SECONDS = 3600.0
"""What a comparison can take; who left the page open took a break."""


@dataclass(frozen=True)
class Event:
    """One click, as it was stored."""

    event: int
    annotator: str
    task: int
    step: str
    value: str
    at: str
    seconds: float


@dataclass(frozen=True)
class Judgment:
    """What an annotator said about a comparison.

    Attributes:
        worse: of `WORSE`; "" if nothing yet.
        better: of `BETTER`, asked where neither hallucinates more; "" if nothing yet.
        first_spans: wrong words of the first answer: start and end in characters.
        second_spans: of the second.
        seconds: of the answers.
        at: when the last one was given.
    """

    worse: str = ""
    better: str = ""
    first_spans: Spans = ()
    second_spans: Spans = ()
    seconds: float = 0.0
    at: str = ""

    @property
    def is_done(self) -> bool:
        """Whether nothing more is asked."""
        return bool(self.worse) and (self.worse != "same" or bool(self.better))

    @property
    def preferred(self) -> str:
        """`first`, `second`, `tie`, `unsure` or `broken`; "" if not done."""
        if not self.is_done:
            return ""
        if self.worse in OTHER:
            return OTHER[self.worse]
        said = self.better if self.worse == "same" else self.worse
        return "tie" if said == "same" else said

    @property
    def by(self) -> str:
        """Which question decided."""
        return "helpfulness" if self.worse == "same" else "hallucination"


def possible_seconds(said: float) -> float:
    """What a comparison took, by what was sent: within limits, and 0 for what is not a time."""
    # An integer of hundreds of digits is not a float; comparing it is safe.
    if said != said or said <= 0:
        return 0.0
    return float(min(said, LONGEST_SECONDS)) if said != float("inf") else 0.0


def live(events: Iterable[Event]) -> list[Event]:
    """The events that no later one undid, in order."""
    known = list(events)
    undone = {int(event.value) for event in known if event.step == "undo"}
    return [event for event in known if event.step != "undo" and event.event not in undone]


def judgments(events: Iterable[Event]) -> dict[str, dict[int, Judgment]]:
    """By annotator and task, what all events together say."""
    found: dict[str, dict[int, Judgment]] = {}
    for event in live(events):
        own = found.setdefault(event.annotator, {})
        own[event.task] = after(own.get(event.task, Judgment()), event)
    return found


def after(old: Judgment, event: Event) -> Judgment:
    """A judgment after one more event; a later answer to the same question replaces the earlier."""
    if event.step == "marks":
        spans = read_spans(json.loads(event.value))
        return replace(old, first_spans=spans["first"], second_spans=spans["second"])
    spent = old.seconds + event.seconds
    if event.step == "worse":
        spent = event.seconds  # a new beginning
        return replace(old, worse=event.value, better="", seconds=spent, at=event.at)
    return replace(old, better=event.value, seconds=spent, at=event.at)


def read_spans(value: object) -> dict[str, Spans]:
    """Marked words of both answers, sorted and joined where they touch.

    Raises:
        ValueError: the value is none of the kind.
    """
    if not isinstance(value, Mapping) or not set(value) <= {"first", "second"}:
        raise ValueError("marks are an object with `first` and `second`")
    found: dict[str, Spans] = {"first": (), "second": ()}
    for side, spans in value.items():
        if not isinstance(spans, list) or len(spans) > 5000:
            raise ValueError("marks of an answer are a list of at most 5,000")
        for span in spans:
            good = isinstance(span, list) and len(span) == 2
            if not good or not all(type(end) is int for end in span) or not 0 <= span[0] < span[1]:
                raise ValueError("a mark is a start and an end")
        found[str(side)] = joined_spans((int(start), int(end)) for start, end in spans)
    return found


def joined_spans(spans: Iterable[tuple[int, int]]) -> Spans:
    """Sorted spans without overlap."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return tuple(found)
