"""DASH-B: its files, both rules, and its scores."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from published_files import dash_b

from veridical.cli import main
from veridical.eval.dash_b import read_dash_b, read_yes_no
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl

SAID = {"neg1": "Yes.", "neg2": "No, now there is none.", "pos1": "Yes", "pos2": "Eyes only."}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "dash").mkdir()
    dash_b(tmp_path / "dash")
    return tmp_path


def answers(files: Path) -> Path:
    """As DASH-B's own scorer writes them."""
    rows = [
        {"img_id": f"{kind}{n}.png", "object_name": name, "gt": "no" if kind == "neg" else "yes",
         "response": SAID[f"{kind}{n}"]}
        for kind in ("neg", "pos") for n, name in ((1, "bed"), (2, "cup"))
    ]  # fmt: skip
    path = files / "answers.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def run(files: Path, *more: str) -> dict[str, Any]:
    words = ["eval", "dash_b", "--files", str(files / "dash"), "--out", str(files / "out"), *more]
    assert main(words) == 0
    return {name: row["value"] for name, row in read_json(files / "out" / "scores.json")["scores"].items()}  # noqa: E501  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Neg 1 of 2; pos 1 of 2: "Eyes only." says neither.
        ("corrected", {"accuracy": 1 / 2, "tnr": 1 / 2, "tpr": 1 / 2, "harmonic_mean": 1 / 2,
                       "unparsed": 1 / 4, "coco/accuracy": 1 / 2}),
        # "Eyes" has "yes" in it: pos 2 of 2; harmonic mean 2 * 1 * 0.5 / 1.5.
        ("official", {"accuracy": 3 / 4, "tnr": 1 / 2, "tpr": 1.0, "harmonic_mean": 2 / 3,
                      "unparsed": 0.0, "coco/tnr": 1 / 2}),
    ],
)  # fmt: skip
def test_both_rules(files: Path, rule: str, expected: dict[str, float]) -> None:
    found = run(files, "--answers", str(answers(files)), "--rule", rule)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "official", "corrected"),
    [
        ("YES", "yes", "yes"),
        ("I know nothing.", "no", None),  # "know" has "no" in it
        ("No yes", "yes", "no"),
        ("Maybe", None, None),
        ("", None, None),
    ],
)
def test_what_an_answer_says(answer: str, official: str | None, corrected: str | None) -> None:
    assert read_yes_no(answer, "official") == official
    assert read_yes_no(answer, "corrected") == corrected


def test_the_embedded_model_is_asked(files: Path) -> None:
    for kind in ("neg", "pos"):
        for n, name in ((1, "bed"), (2, "cup")):
            path = files / "images" / kind / "coco" / name / f"{kind}{n}.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (32, 32), "red").save(path)
    run(files, "--model", "embedded", "--images", str(files / "images"), "--max-new-tokens", "4")
    rows = read_jsonl(files / "out" / "answers.jsonl")
    assert {row["prompt"] for row in rows} == {
        f"Can you see a {name} in this image? Please answer only with yes or no."
        for name in ("bed", "cup")
    }
    assert {row["image_id"] for row in rows} >= {"neg/coco/bed/neg1.png", "pos/coco/cup/pos2.png"}


@pytest.mark.parametrize(
    ("content", "told"),
    [([], "must be JSON"), ({"coco": {"bed": [1]}}, "must be JSON"), ({"coco": 1}, "must be JSON")],
)
def test_other_files_are_refused(files: Path, content: Any, told: str) -> None:
    (files / "dash" / "dash_benchmark_pos.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=told):
        read_dash_b(files / "dash")


def test_answers_and_images_that_do_not_fit(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "dash_b", "--files", str(files / "dash"), "--out", str(files / "out")]
    path = answers(files)
    path.write_text(path.read_text().replace('"cup"', "[1]"))
    assert main([*words, "--answers", str(path)]) == 2
    path = answers(files)
    path.write_text(path.read_text().replace("pos2", "pos3"))
    assert main([*words, "--answers", str(path)]) == 2
    assert "is to no question: yes/cup/pos3.png" in capsys.readouterr().err
    content = {"..": {"bed": ["neg1.png"]}}
    (files / "dash" / "dash_benchmark_neg.json").write_text(json.dumps(content))
    assert main([*words, "--model", "embedded", "--images", str(files)]) == 2
    assert "outside the folder" in capsys.readouterr().err
    assert main([*words, "--answers", str(path), "--question", "Is it there?"]) == 2
    assert "{object}" in capsys.readouterr().err


def test_the_published_files() -> None:
    """2,682 images of 70 objects, half of them without the object."""
    data = os.environ.get("VERIDICAL_TEST_DATA")
    if not data:
        pytest.skip("VERIDICAL_TEST_DATA names no folder of test data")
    questions = read_dash_b(Path(data) / "benchmarks" / "dash_b")
    assert Counter(question.expected for question in questions) == {"no": 1341, "yes": 1341}
    assert len({question.question_id for question in questions}) == 2682
    assert len({question.about["object"] for question in questions}) == 70
