"""SIGTERM, which batch systems send before they kill: what is made so far is kept.

It is raised where it arrives, like Ctrl-C. A training step is finished first and a checkpoint
written (`defer`); a second signal does not wait.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM was received."""


class _State:
    deferring = False
    asked = False


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM within; a thread that is not the main one changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _on_signal)
    _State.asked = _State.deferring = False
    try:
        yield
    finally:
        _State.asked = _State.deferring = False
        signal.signal(signal.SIGTERM, before)


def defer() -> None:
    """Let the first SIGTERM only make `asked` true: who asks saves, and calls `stop`."""
    _State.deferring = True


def no_longer_defer() -> None:
    """Raise again where a SIGTERM arrives."""
    _State.deferring = False


def asked() -> bool:
    """Whether a SIGTERM waits for something to be saved."""
    return _State.asked


def stop() -> None:
    """End as SIGTERM asked.

    Raises:
        Terminated: always.
    """
    _State.asked = _State.deferring = False
    raise Terminated("SIGTERM")


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _State.deferring and not _State.asked:
        _State.asked = True
        # Here, as every command imports this module, and the library of bars takes a moment.
        from veridical.runtime.progress import say

        say("SIGTERM: saving after this step.")
    else:
        stop()
