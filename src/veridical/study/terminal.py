"""What a command that runs steps says: a line for each event, and the running step's last line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

SHOWN_EVERY = 0.5
"""Seconds between two looks at the log of the step that runs."""


class Terminal:
    """Prints what happens on standard output, and keeps one line up to date on a terminal.

    Args:
        clock: seconds, as the executor counts them; lines begin with those since now.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._began, self._shown = clock, clock(), 0.0

    def say(self, text: str) -> None:
        """Print a line."""
        if sys.stderr.isatty() and self._shown:
            self._write(f"{'':<{_width()}}\r")
        print(f"[{self._clock() - self._began:4.0f} s] {text}", flush=True)

    def show(self, line: Callable[[], str]) -> None:
        """Put a line in the last one's place if it is time to; without a terminal, do nothing."""
        now = self._clock()
        if sys.stderr.isatty() and now - self._shown > SHOWN_EVERY:
            self._shown = now
            width = _width()
            self._write(f"{line()[:width]:<{width}}")

    def _write(self, text: str) -> None:
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


def _width() -> int:
    return shutil.get_terminal_size().columns - 1
