"""Jobs that an earlier command started, and that may run still."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from veridical.runtime.errors import UserError
from veridical.runtime.run_record import is_alive
from veridical.study.executing import Executor
from veridical.study.ledger import StepState


def under_way(ledger: Mapping[str, StepState]) -> set[str]:
    """Steps that an earlier command began: what still runs of them takes room and GPUs."""
    return {name for name, state in ledger.items() if tokens_of(state)}


def tokens_of(state: StepState | None) -> Sequence[Any]:
    """What the jobs of a step are found by that nobody saw end."""
    return (state.get("jobs") or []) if state and state["status"] == "running" else []


def refuse_unseen(executor: Executor, tokens: Sequence[Any]) -> None:
    """Refuse to start a step beside one that may run where the executor can't look.

    Raises:
        UserError: says where it was started.
    """
    unseen = [token for token in tokens if may_run(token) and not executor.can_ask(token)]
    if unseen:
        raise UserError(
            f"an earlier command started it {whereabouts(unseen[0])}, where this one can't see "
            "whether it still runs. Start the command as it was started then, or, if nothing "
            "of it runs any more, with --forget true."
        )


def may_run(token: Any) -> bool:
    """Whether a job that an earlier command started may still run, as far as this machine sees."""
    if isinstance(token, Mapping):
        return token.get("host") != socket.gethostname() or is_alive(token)
    return token is not None  # Slurm's; Ray's end with their driver


def whereabouts(token: Any) -> str:
    """Where a job was started, for people."""
    if isinstance(token, Mapping):
        return f"on {token.get('host')} as process {token.get('id')}"
    return f"as Slurm's job {token}"
