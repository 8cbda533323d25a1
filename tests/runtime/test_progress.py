"""Numbers beside what they count, in English."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import pytest

from veridical.cli import dispatch
from veridical.runtime import interruptions
from veridical.runtime.errors import UserError
from veridical.runtime.progress import are_in, counted, part_of, say, step_bar


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(1, 1, "1 of 1 row has"), (1, 2, "1 of 2 rows has"), (2, 3, "2 of 3 rows have")],
)
def test_a_part_of_all_agrees_with_its_verb(part: int, whole: int, said: str) -> None:
    assert part_of(part, whole, "rows", "has", "have") == said
    assert part_of(part, whole, "rows") == said.rpartition(" ")[0]


def test_one_thing_is_singular() -> None:
    assert [counted(n, "images") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [are_in(n, "pairs", "a") for n in (1, 2)] == ["1 pair is in a.", "2 pairs are in a."]


def test_what_is_said_while_a_bar_is_open_has_its_own_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both streams in one file, as of `2>&1`: no line has the bar and the text."""
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    bar = step_bar(4)
    say("first")
    say("second")
    bar.close()
    say("third")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in ("first", "second", "third")] == [
        "first", "second", "third",
    ]  # fmt: skip
    assert lines[lines.index("first") + 1] == "second"


def test_a_command_that_fails_ends_its_bars_before_it_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    bars = []

    def fails(arguments: list[str]) -> None:
        bars.append(step_bar(4))
        os.kill(os.getpid(), signal.SIGTERM)
        raise UserError("No room.")

    monkeypatch.setattr(dispatch, "run_command", fails)
    monkeypatch.setattr(interruptions._State, "deferring", True)
    monkeypatch.setattr(interruptions._State, "asked", False)
    monkeypatch.setattr(interruptions, "terminable", contextlib.nullcontext)
    before = signal.signal(signal.SIGTERM, interruptions._on_signal)
    try:
        assert dispatch.main(["train", "dpo"]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    bars.clear()  # a bar that is still open is drawn once more here
    lines = capsys.readouterr().out.splitlines()
    assert "SIGTERM: saving after this step." in lines
    assert lines[-1] == "veridical: No room."
