"""What a judge did cost."""

from __future__ import annotations

from dataclasses import asdict

from veridical.judges.judging import Cost
from veridical.judges.ledger import Ledger
from veridical.runtime.progress import counted


def spent(cost: Cost, ledger: Ledger | None) -> tuple[dict[str, float], list[str]]:
    """What a judge did cost, for `run.json` and in words.

    Args:
        cost: of this process's replies.
        ledger: of an endpoint: what all runs into the folder have paid; None for a model on this
            machine, whose questions are not counted.
    """
    if ledger is None:
        own = {"judge_output_tokens": cost.output_tokens, "judge_replies": cost.replies}
        return {**own}, []
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
