"""POPE's answers scored by RePOPE's labels too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from evaluating import eval_pope

from veridical.cli import main
from veridical.eval.pope_questions import read_questions, read_relabels
from veridical.runtime.files import read_jsonl

TEXTS = ["Is there a cup in the image?", "Is there a dog in the image?", "Is there a bus?"]


def write(path: Path, labels: dict[int, str]) -> Path:
    """Questions 1 to 3, of an image each."""
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": TEXTS[n - 1], "label": label}
        for n, label in labels.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Question 1 turns from yes to no, 3 is taken out; the answers are yes, no, yes."""
    answers = tmp_path / "answers.jsonl"
    said = [{"question_id": n, "answer": word} for n, word in enumerate(["Yes", "No", "Yes"], 1)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")
    return {
        "questions": write(tmp_path / "coco_pope_random.json", {1: "yes", 2: "no", 3: "yes"}),
        "relabeled": write(tmp_path / "coco_repope_random.json", {1: "no", 2: "no"}),
        "answers": answers,
    }


def test_both_labels_in_one_run(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By POPE 3 of 3 are right; by RePOPE 1 of the 2 questions that are left."""
    scores = eval_pope(
        tmp_path / "out", questions=[files["questions"]], relabeled=[files["relabeled"]],
        answers=files["answers"],
    )  # fmt: skip
    values = {name: (score.value, score.n) for name, score in scores.items()}
    assert values["accuracy"] == values["random/accuracy"] == (1.0, 3)
    assert values["repope/accuracy"] == values["repope_random/accuracy"] == (0.5, 2)
    assert "1 are taken out, 1 turn from yes to no and 0 from no to yes" in capsys.readouterr().out
    rows = read_jsonl(tmp_path / "out" / "answers.jsonl")
    assert [(row["label"], row["relabeled"]) for row in rows] == [
        ("yes", "no"), ("no", "no"), ("yes", None),
    ]  # fmt: skip


def test_questions_on_images_of_aokvqa_and_gqa(files: dict[str, Path], tmp_path: Path) -> None:
    """Their files are JSON lists with the ids of COCO's: splits of their own."""
    rows = [json.loads(line) for line in files["questions"].read_text().splitlines()]
    paths = [files["questions"]]
    for name in ("aokvqa_pope_seem_random.json", "gqa_pope_random.json"):
        paths.append(tmp_path / name)
        paths[-1].write_text(json.dumps(rows))
    splits = [question.split for question in read_questions(paths)]
    assert splits == ["random"] * 3 + ["aokvqa_random"] * 3 + ["gqa_random"] * 3


def test_labels_of_other_questions_are_refused(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = files["relabeled"].read_text().replace("dog", "cat")
    files["relabeled"].write_text(other)
    words = ["eval", "pope", "--answers", str(files["answers"]), "--out", str(tmp_path / "out")]
    words += ["--relabeled", str(files["relabeled"])]
    assert main([*words, "--questions", str(files["questions"])]) == 2
    assert "--relabeled has question 2 (random)" in capsys.readouterr().err


def test_the_published_labels() -> None:
    """139 labels turn from yes to no in each split, and 5, 39 and 33 from no to yes."""
    data = os.environ.get("VERIDICAL_TEST_DATA")
    if not data:
        pytest.skip("VERIDICAL_TEST_DATA names no folder of test data")
    found = {}
    for split in ("random", "popular", "adversarial"):
        questions = read_questions([Path(data) / "pope" / f"coco_pope_{split}.json"])
        path = Path(data) / "benchmarks" / "repope" / f"coco_repope_{split}.json"
        labels = read_relabels([path], questions)
        pairs = [(str(q.label), labels.get((split, q.question_id))) for q in questions]
        turned = [pairs.count((own, other)) for own, other in (("yes", "no"), ("no", "yes"))]
        found[split] = (len(labels), *turned)
    assert found == {
        "random": (2774, 139, 5),
        "popular": (2727, 139, 39),
        "adversarial": (2684, 139, 33),
    }
