"""How long steps take, by those of the same kind that are finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from veridical.study.commands import LIGHT
from veridical.study.ledger import StepState
from veridical.study.plan import Step
from veridical.study.rehearsal import LIGHT_SECONDS, in_words

__all__ = ["Rates", "in_words", "kind_of", "known_rates"]


@dataclass(frozen=True)
class Rates:
    """Mean seconds of finished steps.

    Attributes:
        by_kind: by the template that they were made from, and its command: templates of one name
            are alternatives.
        by_command: by their command.
    """

    by_kind: Mapping[tuple[str, str], float]
    by_command: Mapping[str, float]

    def of(self, step: Step) -> float | None:
        """Seconds that a step will take; None where none of its kind is finished."""
        kind = (kind_of(step.name), step.command)
        known = self.by_kind.get(kind, self.by_command.get(step.command))
        return LIGHT_SECONDS if known is None and step.command in LIGHT else known

    def guess(self, step: Step) -> float:
        """The same, or the mean of all commands where none of its kind is finished."""
        known = self.of(step)
        return fmean(self.by_command.values() or [1.0]) if known is None else known


def kind_of(name: str) -> str:
    """The name of the template that a step was made from."""
    return name.partition("/")[0]


def known_rates(ledger: Mapping[str, StepState]) -> Rates:
    """The rates of the steps that a study's folder knows as finished."""
    kinds: dict[tuple[str, str], list[float]] = {}
    commands: dict[str, list[float]] = {}
    for name, state in ledger.items():
        if state["status"] == "finished" and "seconds" in state:
            words = state["command"].split()[1:]
            command = " ".join(words[: next((n for n, word in enumerate(words) if word[0] == "-"),
                                            len(words))])  # fmt: skip
            kinds.setdefault((kind_of(name), command), []).append(state["seconds"])
            commands.setdefault(command, []).append(state["seconds"])
    return Rates(
        {kind: fmean(own) for kind, own in kinds.items()},
        {command: fmean(own) for command, own in commands.items()},
    )
