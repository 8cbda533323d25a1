"""Templates that write the date: whatever is interrupted and goes on tomorrow keeps its prompts."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
from transformers.processing_utils import ProcessorMixin

from veridical.cli import main
from veridical.models.load import load_policy
from veridical.runtime import rendering_record, runs
from veridical.runtime.files import read_json

DAYS = ("2001-02-03", "2001-02-04")
TRAIN = "--max-steps 2 --batch-size 2 --held-out 0 --learning-rate 1e-4 --lora-rank 4"
TRUTH = "--objects {w}/objects.json --vocabulary {w}/vocabulary.json"
LINES = {
    "sample": "build sample {m} --data {w}/conversations.jsonl --k 2 --max-new-tokens 96",
    "bdhs": "build bdhs {m} --data {w}/conversations.jsonl --similarity edit --max-new-tokens 24",
    "pope": "eval pope {m} --images {w}/images " + TRUTH,
    "chair": "eval chair {m} --images {w}/images --max-new-tokens 8 " + TRUTH,
    "dpo": "train dpo {m} --data {p}/pairs.parquet " + TRAIN,
    "online": "train online {m} --data {p}/pairs.parquet --max-new-tokens 8 " + TRUTH + " " + TRAIN,
}
"""Of each stage what renders prompts in a loop of its own."""


class Clock:
    """Days, and which of them each rendered prompt has."""

    def __init__(self) -> None:
        self.day = DAYS[0]
        self.written: list[str] = []
        self.stop_after: int | None = None

    def see(self, text: str) -> None:
        """Note the date in a prompt; stop the run where it is time to."""
        self.written += re.findall(r"TODAY=(\S+)", text)
        if self.stop_after is not None and len(self.written) >= self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the process, which has nothing frozen yet."""
    found = Clock()

    class Now(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Now:
            return cls.fromisoformat(f"{found.day}T23:59:58").replace(tzinfo=tz)

    monkeypatch.setattr(runs, "datetime", Now)
    monkeypatch.setattr(rendering_record, "datetime", Now)
    rendering_record._now.clear()
    honest: Callable[..., str] = ProcessorMixin.apply_chat_template

    def rendered(*given: object, **named: object) -> str:
        text = honest(*given, **named)
        found.see(text)
        return text

    monkeypatch.setattr(ProcessorMixin, "apply_chat_template", rendered)
    return found


@pytest.fixture
def world(tmp_path: Path) -> dict[str, str]:
    """Scenes, pairs, and a model whose template writes the date."""
    policy = load_policy("embedded", device="cpu")
    policy.model.save_pretrained(tmp_path / "model")
    policy.processor.save_pretrained(tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text("TODAY={{ strftime_now('%Y-%m-%d') }} " + template.read_text())
    assert main(["world", "make", str(tmp_path / "w"), "--count", "4"]) == 0
    assert main(["world", "pairs", str(tmp_path / "w"), "--out", str(tmp_path / "p")]) == 0
    return {
        name: str(tmp_path / folder)
        for name, folder in zip("mwp", ("model", "w", "p"), strict=True)
    }


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_what_goes_on_tomorrow_has_the_date_it_began_with(
    line: str, world: dict[str, str], clock: Clock, tmp_path: Path
) -> None:
    words = line.format(**world).split()
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    whole = len(clock.written)
    assert set(clock.written) == {DAYS[0]}

    clock.written, clock.stop_after = [], whole // 2 + 1
    assert main([*words, "--out", str(tmp_path / "cut")]) == 130
    clock.day, clock.stop_after = DAYS[1], None
    rendering_record._now.clear()  # another process
    resume = ["--resume", "true"] if words[0] == "train" else []
    assert main([*words, *resume, "--out", str(tmp_path / "cut")]) == 0
    assert set(clock.written) == {DAYS[0]}
    assert read_json(tmp_path / "cut" / "run.json")["prompt_time"].startswith(DAYS[0])

    clock.written = []
    assert main([*words, "--out", str(tmp_path / "new")]) == 0
    assert set(clock.written) == {DAYS[1]}
