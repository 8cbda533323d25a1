"""What a signal raises is not lost where Python ignores exceptions."""

from __future__ import annotations

import signal
import time
import weakref
from collections.abc import Iterator

import pytest

from veridical.runtime import interruptions
from veridical.runtime.interruptions import Terminated, terminable


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """A process that was started in the background of a shell ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Held:
    """Something that a weak reference can be to."""


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_that_arrives_where_exceptions_are_ignored_is_raised_after(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    arrived = []

    def remove(_: object) -> None:
        arrived.append(1)
        signal.raise_signal(number)

    held = Held()
    reference = weakref.ref(held, remove)
    with pytest.raises(raised), terminable():
        del held
        assert reference() is None and arrived
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(1)


def test_a_signal_is_not_sent_again_to_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruptions, "AGAIN_SECONDS", 3600.0)
    held = Held()
    reference = weakref.ref(held, lambda _: signal.raise_signal(signal.SIGTERM))
    with terminable():
        del held
    assert reference() is None
