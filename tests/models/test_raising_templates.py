"""A chat template that raises: the row is listed, or the command ends in a line and status 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from veridical import cli
from veridical.runtime.files import read_jsonl
from veridical.runtime.fingerprint import EMBEDDED_MODEL
from veridical.world.dataset import write_scenes

FOR_SOME = "{% if 'row 0' in messages | string %}{{ raise_exception('never this') }}{% endif %}"
FOR_ALL = "{{ raise_exception('never this') }}"
UNDEFINED = "{{ nothing.at.all }}"
COMMANDS = {
    "bdhs": ["build", "bdhs", "--similarity", "edit", "--cache", "none", "--data", "{rows}"],
    "sft": ["train", "sft", "--cache", "none", "--held-out", "0", "--data", "{rows}"],
    "chair": ["eval", "chair", "--images", "{scenes}/images", "--objects",
              "{scenes}/objects.json", "--vocabulary", "{scenes}/vocabulary.json"],
    "ask": ["ask", "{model}", "{scenes}/images/{image}", "What is there?"],
}  # fmt: skip


def call(command: str, beginning: str, folder: Path) -> int:
    scenes, model = folder / "scenes", folder / "model"
    write_scenes(scenes, count=2, questions=2)
    rows = (scenes / "conversations.jsonl").read_text().splitlines()
    rows[0] = rows[0].replace('"text": "', '"text": "row 0 ', 1)
    (scenes / "conversations.jsonl").write_text("\n".join(rows) + "\n")
    shutil.copytree(EMBEDDED_MODEL, model)
    template = model / "chat_template.jinja"
    template.write_text(beginning + template.read_text())
    image = next((scenes / "images").iterdir()).name
    names = {"rows": scenes / "conversations.jsonl", "scenes": scenes, "model": model}
    words = [word.format(**names, image=image) for word in COMMANDS[command]]
    if command != "ask":
        words += ["--model", str(model), "--out", str(folder / "out")]
    return cli.main(words)


@pytest.mark.parametrize("beginning", [FOR_ALL, UNDEFINED])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_template_that_always_raises(
    command: str, beginning: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(command, beginning, tmp_path) == 2
    said = capsys.readouterr().err
    line = said.rpartition("veridical: ")[2]
    if command == "bdhs":
        assert "skipped.jsonl says why" in line
        line = str([row["reason"] for row in read_jsonl(tmp_path / "out" / "skipped.jsonl")])
    assert "the chat template refuses it" in line
    assert ("never this" if beginning == FOR_ALL else "undefined") in line


def test_a_row_that_a_template_refuses_is_listed(tmp_path: Path) -> None:
    assert call("bdhs", FOR_SOME, tmp_path) == 0
    (skipped,) = read_jsonl(tmp_path / "out" / "skipped.jsonl")
    assert "the chat template refuses it: never this" in skipped["reason"]
