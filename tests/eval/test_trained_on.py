"""Images that a model was trained on, by their bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from veridical.cli.dispatch import main
from veridical.data.records import read_records, write_records
from veridical.eval.trained_on import warn_of_training_images
from veridical.runtime.files import read_json, write_json, write_jsonl

PAIR = {"prompt": "What is there?", "chosen": "A dog.", "rejected": "A cat."}


def trained(folder: Path, data: Path, model: str = "embedded", name: str = "run") -> str:
    """A training's folder; its model is only a name here."""
    run = folder / name
    (run / "model").mkdir(parents=True)
    record = {
        "command": "train dpo",
        "status": "finished",
        "configuration": {"data": str(data), "model": model},
    }
    write_json(run / "run.json", record)
    return str(run / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pairs about a.png and b.png; test/ has a copy of b.png under another name, and c.png."""
    for name, color in (("a", "red"), ("b", "blue"), ("c", "green")):
        Image.new("RGB", (64, 64), color).save(tmp_path / f"{name}.png")
    (tmp_path / "test").mkdir()
    shutil.copy(tmp_path / "b.png", tmp_path / "test" / "1.png")
    shutil.copy(tmp_path / "c.png", tmp_path / "test" / "2.png")
    write_jsonl(tmp_path / "pairs.jsonl", [PAIR | {"image": f"{name}.png"} for name in "ab"])
    return tmp_path / "pairs.jsonl"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_image_of_the_training_is_found_under_another_name(
    data: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == "parquet":
        write_records(
            read_records(data, "preference").rows, data.with_suffix(".parquet"), "preference"
        )
    model = trained(tmp_path, data.with_suffix(f".{suffix}"))
    assert warn_of_training_images(model, sorted((tmp_path / "test").iterdir())) == 1
    assert "was trained on 1 of these 2 images (1.png)" in capsys.readouterr().out


def test_the_training_before_the_last_counts_too(data: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "other.jsonl", [PAIR | {"image": "a.png"}])
    first = trained(tmp_path, data)
    last = trained(tmp_path, tmp_path / "other.jsonl", first, "later")
    assert warn_of_training_images(last, [tmp_path / "test" / "1.png"]) == 1


def test_other_images_and_other_models_say_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warn_of_training_images(trained(tmp_path, data), [tmp_path / "test" / "2.png"]) == 0
    assert warn_of_training_images("embedded", [tmp_path / "test" / "1.png"]) == 0
    assert capsys.readouterr().out == ""


def test_data_that_is_gone_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained(tmp_path, tmp_path / "gone.parquet")
    assert warn_of_training_images(model, [tmp_path / "test" / "1.png"]) == 0
    assert "gone.parquet, which is not there" in capsys.readouterr().out


@pytest.mark.parametrize("benchmark", ["chair", "pope"])
def test_evaluations_warn_before_they_ask(
    data: Path, tmp_path: Path, benchmark: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model = trained(tmp_path, data)
    write_json(tmp_path / "objects.json", {"1": ["dog"], "2": ["cat"]})
    monkeypatch.setattr("veridical.eval.run.make_answers", lambda *_: None)
    words = ["eval", benchmark, model, "--images", tmp_path / "test", "--objects",
             tmp_path / "objects.json", "--out", tmp_path / "out"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    assert "was trained on 1 of these 2 images" in capsys.readouterr().out


def test_further_files_of_the_training_count_too(data: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "first.jsonl", [PAIR | {"image": "a.png"}])
    model = trained(tmp_path, tmp_path / "first.jsonl")
    record = read_json(Path(model).parent / "run.json")
    record["configuration"]["more_data"] = [str(data)]
    write_json(Path(model).parent / "run.json", record)
    assert warn_of_training_images(model, [tmp_path / "test" / "1.png"]) == 1


def test_relative_paths_begin_at_the_folder_in_which_it_was_trained(
    data: Path, tmp_path: Path
) -> None:
    """The data, the images and the model before: all of them are written as they were given."""
    (tmp_path / "sub").mkdir()
    data.rename(tmp_path / "sub" / data.name)
    trained(tmp_path, Path("sub") / data.name, name="first")
    write_jsonl(tmp_path / "other.jsonl", [PAIR | {"image": "a.png"}])
    last = trained(tmp_path, Path("other.jsonl"), "first/model", "last")
    for name in ("first", "last"):
        record = read_json(tmp_path / name / "run.json") | {"working_folder": str(tmp_path)}
        record["configuration"]["images_root"] = "."
        write_json(tmp_path / name / "run.json", record)
    assert warn_of_training_images(last, [tmp_path / "test" / "1.png"]) == 1
