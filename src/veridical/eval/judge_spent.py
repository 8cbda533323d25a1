"""What a judge did cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from veridical.judges.judging import Cost
from veridical.judges.ledger import Ledger
from veridical.judges.prompted import Asker, JudgeQuestion, JudgeReply
from veridical.runtime.progress import counted


def noting_asker(ask: Asker, ledger: Ledger) -> Asker:
    """A model on this machine whose replies are written down as those of an endpoint are."""

    def asker(questions: Sequence[JudgeQuestion]) -> list[JudgeReply]:
        replies = ask(questions)
        for question, reply in zip(questions, replies, strict=True):
            if reply.cost.replies:
                ledger.add(question.prompt.id, reply.cost.input_tokens, reply.cost.output_tokens)
        return replies

    return asker


def spent(cost: Cost, ledger: Ledger) -> tuple[dict[str, float], list[str]]:
    """What a judge did cost, for `run.json` and in words.

    Args:
        cost: of this process's replies.
        ledger: what all runs into the folder have cost.
    """
    paid, untold = ledger.total, ledger.untold
    found = {f"judge_{name}": value for name, value in asdict(cost).items()}
    found |= {f"judge_paid_{name}": value for name, value in asdict(paid).items()}
    line = f"The judge replied {_told(cost)}."
    if paid.replies != cost.replies:
        line += f" With what was asked before for this folder: {_told(paid)}."
    if untold:
        line += f" It did not say how many tokens it used {counted(untold, 'times')}."
    return {**found, "judge_untold": untold}, [line]


def _told(cost: Cost) -> str:
    price = f", ${cost.dollars:,.4f}" if cost.dollars else ""
    return (
        f"{counted(cost.replies, 'times')} ({cost.input_tokens:,} tokens read, "
        f"{cost.output_tokens:,} written{price})"
    )
