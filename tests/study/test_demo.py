"""The demo from end to end, on a few scenes and steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from veridical.cli import main
from veridical.runtime.files import read_json
from veridical.study import demo
from veridical.study.arms import Budget


def test_the_demo_ends_with_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "Budget", partial(Budget, pairs=16, steps=2, scenes=8))
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert f"Open {tmp_path / 'demo' / 'report.html'}" in told
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "Hallucinated mentions" in page
    summary = read_json(tmp_path / "demo" / "summary.json")
    assert [arm["name"] for arm in summary["arms"]] == ["base", "sft", "bdhs"]
    for arm in summary["arms"]:
        assert "chair_i" in arm["scores"]["chair"] and "accuracy" in arm["scores"]["pope"]
