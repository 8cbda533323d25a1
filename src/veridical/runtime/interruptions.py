"""SIGTERM, which batch systems send before they kill: what is made so far is kept.

It is raised where it arrives, like Ctrl-C. A training step is finished first and a checkpoint
written (`defer`); a second signal does not wait.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

AGAIN_SECONDS = 0.05
"""After which a lost signal is sent again (our choice: outside of what had lost it)."""


class Terminated(KeyboardInterrupt):
    """SIGTERM was received."""


class _State:
    deferring = False
    asked = False


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM within; a thread that is not the main one changes nothing.

    Where Python ignores what is raised, it is raised again, Ctrl-C too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _on_signal)
    _State.asked = _State.deferring = False
    try:
        with _none_lost():
            yield
    finally:
        _State.asked = _State.deferring = False
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _none_lost() -> Iterator[None]:
    """Send a signal again whose exception was raised where Python ignores all of them.

    It does in `__del__` and when an entry of a dictionary of weak references goes, which happens
    all the time in training. The run would go on to its end.
    """
    before, main = sys.unraisablehook, threading.get_ident()
    again: list[threading.Timer] = []

    def ignored(found: sys.UnraisableHookArgs) -> None:
        if not isinstance(found.exc_value, KeyboardInterrupt):
            before(found)
            return
        lost = signal.SIGTERM if isinstance(found.exc_value, Terminated) else signal.SIGINT
        again.append(threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, lost)))
        again[-1].start()

    sys.unraisablehook = ignored
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in again:
            timer.cancel()
            timer.join()


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
