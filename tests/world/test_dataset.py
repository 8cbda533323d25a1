"""A scene folder holds what others read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.world.dataset import remove_scenes, write_scenes
from veridical.world.drawing import render_array
from veridical.world.language import describe_scene
from veridical.world.scenes import sample_scenes


def test_scene_folder(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    write_scenes(folder, "counter", 4, seed=9)
    scenes = sample_scenes("counter", 4, 9)
    rows = read_jsonl(folder / "conversations.jsonl")
    assert [row["id"] for row in rows] == [scene.id for scene in scenes]
    for row, scene in zip(rows, scenes, strict=True):
        (name,) = row["images"]
        assert Path(name).stem == scene.id
        assert np.array_equal(np.asarray(Image.open(folder / name)), render_array(scene))
        assert row["messages"][1]["content"] == [{"type": "text", "text": describe_scene(scene)}]
    assert read_json(folder / "objects.json") == {scene.id: list(scene.kinds) for scene in scenes}
    assert read_json(folder / "vocabulary.json")["bus"] == ["bus", "buses"]
    questions = read_jsonl(folder / "questions.jsonl")
    assert len(questions) == 16 and len({row["question_id"] for row in questions}) == 16
    assert read_json(folder / "scenes.json")[0]["setting"] == scenes[0].setting


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(UserError, match="not empty"):
        write_scenes(tmp_path, "prior", 1)


def test_every_file_that_was_written_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scenes"
    write_scenes(folder, "prior", 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Written to {folder}:"
    names = {line.split()[0].rstrip("/") for line in lines[1:]}
    assert names == {path.name for path in folder.iterdir()}


def test_an_interrupted_folder_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    for name in ("facts", "draw_scene"):  # among the files, and among the pictures
        with monkeypatch.context() as patched:
            patched.setattr(f"veridical.world.dataset.{name}", stop)
            with pytest.raises(KeyboardInterrupt):
                write_scenes(tmp_path / "scenes", count=2)
        assert not list((tmp_path / "scenes").iterdir())
    write_scenes(tmp_path / "scenes", count=2)
    assert len(list((tmp_path / "scenes" / "images").iterdir())) == 2


def test_scenes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    write_scenes(tmp_path, count=1)
    (tmp_path / "images" / "mine.png").touch()
    remove_scenes(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["images", "mine.png"]
    (tmp_path / "scenes.json").write_text('[{"id": "../mine"}]')
    with pytest.raises(UserError, match="is not a list of scenes"):
        remove_scenes(tmp_path)
