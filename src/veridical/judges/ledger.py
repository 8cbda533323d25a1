"""What an endpoint has been paid, on disk: one limit for all processes, over interruptions."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from veridical.judges.judging import Cost
from veridical.runtime.errors import UserError

MILLION = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What may be spent.

    Attributes:
        input_price: dollars for a million tokens read.
        output_price: dollars for a million tokens written.
        max_dollars: for all replies together; None for no limit.
        max_tokens: read and written, for all replies together; None for no limit.
    """

    input_price: float | None = None
    output_price: float | None = None
    max_dollars: float | None = None
    max_tokens: int | None = None

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return self.max_dollars is not None or self.max_tokens is not None

    def price(self, input_tokens: int, output_tokens: int) -> float:
        """What a reply costs, in dollars; 0 where prices are not told."""
        read, written = self.input_price or 0.0, self.output_price or 0.0
        return (read * input_tokens + written * output_tokens) / MILLION


class Ledger:
    """The replies that were paid for, one JSON line each, in `spent.jsonl`.

    Threads and processes share it under a lock: each one sees what all have spent before it asks.
    Questions that are under way then are still paid.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        """Read what was spent so far, by earlier runs into the same folder too."""
        self.path, self.limits = path, limits
        self._lock = threading.Lock()
        self._total, self._read = Cost(), 0
        self._untold = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._shared = FileLock(f"{path}.lock", thread_local=False)
        self._catch_up()

    @property
    def total(self) -> Cost:
        """What all processes have spent."""
        with self._lock, self._shared:
            return self._catch_up()

    @property
    def untold(self) -> int:
        """How many replies came without their number of tokens, which is in no total."""
        with self._lock, self._shared:
            self._catch_up()
            return self._untold

    def check(self) -> None:
        """Refuse to go on once a limit is reached.

        Raises:
            UserError: it is.
        """
        if not self.limits.any:
            return
        total, limits = self.total, self.limits
        dollars, tokens = total.dollars, total.input_tokens + total.output_tokens
        if limits.max_dollars is not None and dollars >= limits.max_dollars:
            raise UserError(
                f"${dollars:.4f} have been spent, and endpoint.max_dollars is "
                f"{limits.max_dollars:g}. Raise it and start again: it goes on where it was."
            )
        if limits.max_tokens is not None and tokens >= limits.max_tokens:
            raise UserError(
                f"{tokens:,} tokens have been used, and endpoint.max_tokens is "
                f"{limits.max_tokens:,}. Raise it and start again: it goes on where it was."
            )

    def add(self, id: str, input_tokens: int, output_tokens: int) -> Cost:
        """Write down one reply.

        Returns:
            Its cost.
        """
        dollars = self.limits.price(input_tokens, output_tokens)
        cost = Cost(input_tokens, output_tokens, dollars, 1)
        # In ASCII: an id that can't be encoded should not end a run after it was paid.
        line = json.dumps({"id": id, "cost": vars(cost)}).encode() + b"\n"
        with self._lock, self._shared:
            self._catch_up()
            with self.path.open("ab") as file:
                # A line that an interruption cut off is ended first.
                file.write(line if file.tell() == self._read else b"\n" + line)
        return cost

    def _catch_up(self) -> Cost:
        """Read the lines that were added since; those without an end are left for later."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.split(b"\n"):
                cost = _cost_of(line)
                self._total += cost
                self._untold += cost.replies and not cost.input_tokens
        return self._total


def _cost_of(line: bytes) -> Cost:
    """The cost that a line tells; nothing where it was cut off."""
    try:
        told = json.loads(line)["cost"]
        values = {name: told[name] for name in vars(Cost())}
    except (ValueError, KeyError, TypeError):
        return Cost()
    good = all(type(one) in (int, float) and math.isfinite(one) for one in values.values())
    return Cost(**values) if good and min(values.values()) >= 0 else Cost()
