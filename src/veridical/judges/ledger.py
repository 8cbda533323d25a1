"""What an endpoint has been paid, on disk, so that a limit holds over interruptions."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from veridical.errors import UserError
from veridical.judges.judging import Cost

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
    """The replies that were paid for, one JSON line each, in `spent.jsonl`; safe among threads."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """Read what earlier runs into the same folder have spent."""
        self.path, self.limits = path, limits
        self._lock = threading.Lock()
        self.total = Cost()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.split("\n"):  # not splitlines: it also splits at U+2028 within a text
            try:
                self.total += Cost(**json.loads(line)["cost"])
            except (ValueError, KeyError, TypeError):
                continue  # a line that an interruption cut off
        if text and not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def check(self) -> None:
        """Refuse to go on once a limit is reached.

        Raises:
            UserError: it is.
        """
        dollars, tokens = self.total.dollars, self.total.input_tokens + self.total.output_tokens
        limits = self.limits
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
        line = json.dumps({"id": id, "cost": vars(cost)}, ensure_ascii=False)
        with self._lock:
            self.total += cost
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return cost
