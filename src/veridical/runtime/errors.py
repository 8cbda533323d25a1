"""Errors that a user can cause: of a whole command, and of one row."""

from __future__ import annotations


class UserError(Exception):
    """What was asked, why it cannot be, and what to set instead, in one or two lines.

    The command line prints the message and exits with status 2; anything else that is
    raised is a bug and keeps its traceback.
    """


class FindingsError(Exception):
    """A check that has found what it looks for, and has said so: exit status 1, no message."""


class RefusedRowError(ValueError):
    """A row that cannot be used as it is; the message says why. Callers list it."""


def reason_of(error: BaseException) -> str:
    """An exception's first line, or its type where it has none.

    A first line that ends in a colon only announces the next, which is given too.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    told = " ".join(lines[:2])[:300] if lines[0].endswith(":") else lines[0][:200]
    return told.rstrip(".:")
