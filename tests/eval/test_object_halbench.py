"""Object HalBench: its files, its command, its rules on whole runs."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from published_files import object_halbench, write

from veridical.cli import main
from veridical.runtime.files import read_json, read_jsonl
from veridical.world.dataset import write_scenes

ANSWERS: list[dict[str, Any]] = [
    {"image_id": 7, "answer": "A man with two dogs at a table."},
    {"image_id": "000008", "answer": "A puppy and its dog."},
    {"image_id": 9, "answer": "It is dark in this place."},
]
# Word lists: the table of image 7 is invented; "puppy" and "dog" name one object, said twice.
BY_WORDS = {
    "response_hall": 1 / 2, "object_hall": 1 / 5, "chair_s": 1 / 3, "recall": 3 / 4,
    "mean_length": 19 / 3, "without_objects": 1 / 3, "unread": 0.0,
}  # fmt: skip


class Lemmatizer:
    """Takes an s off."""

    def lemmatize(self, word: str) -> str:
        return word.removesuffix("s")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    object_halbench(tmp_path)
    write(tmp_path / "answers.jsonl", ANSWERS)
    return tmp_path


@pytest.fixture
def nltk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for NLTK, whose data no registry has."""
    fake, stem = ModuleType("nltk"), ModuleType("nltk.stem")
    fake.__version__ = "0"  # type: ignore[attr-defined]
    fake.word_tokenize = lambda text: text.replace(".", " .").split()  # type: ignore[attr-defined]
    stem.WordNetLemmatizer = Lemmatizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nltk", fake)
    monkeypatch.setitem(sys.modules, "nltk.stem", stem)


def words(files: Path, *more: str) -> list[str]:
    return ["eval", "object_halbench", "--files", str(files / "obj_halbench.jsonl"), "--synonyms",
            str(files / "synonyms.txt"), "--out", str(files / "out"), *more]  # fmt: skip


def given(files: Path, *more: str) -> list[str]:
    return words(files, "--answers", str(files / "answers.jsonl"), "--objects",
                 str(files / "objects.json"), *more)  # fmt: skip


def values(folder: Path) -> dict[str, Any]:
    return {name: row["value"] for name, row in read_json(folder / "scores.json")["scores"].items()}


def test_by_word_lists(files: Path, nltk: None) -> None:
    for rule in ("corrected", "official"):
        assert main(given(files, "--rule", rule)) == 0
        assert values(files / "out") == pytest.approx(BY_WORDS)
        about = read_json(files / "out" / "scores.json")["about"]
        assert about["judge"].startswith("none") and about["rule"] == rule
    assert about["words"].startswith("NLTK 0, punkt_tab")


def test_the_official_rule_needs_nltk(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    assert main(given(files, "--rule", "official")) == 2
    assert "need NLTK" in capsys.readouterr().err
    assert not (files / "out").exists()


REPLIES = {"7": '["man", "dogs", "dining table"]', "8": '["puppy", "dog"]', "9": "none"}


def test_with_a_judge(files: Path) -> None:
    """Image 8 names one object; the reply about image 9 can't be read, so it is in no score."""
    rows = [{"question_id": id, "reply": reply} for id, reply in REPLIES.items()]
    write(files / "replies.jsonl", rows)
    assert main(given(files, "--replies", str(files / "replies.jsonl"))) == 0
    found = values(files / "out")
    assert found == pytest.approx(
        {"response_hall": 1 / 2, "object_hall": 1 / 4, "chair_s": 1 / 2, "recall": 1.0,
         "mean_length": 19 / 3, "without_objects": 0.0, "unread": 1 / 3}
    )  # fmt: skip
    row = read_jsonl(files / "out" / "answers.jsonl")[0]
    assert row["by"] == "judge" and row["hallucinated"] == ["dining table"]


def test_with_a_judge_by_the_official_rule(
    files: Path, nltk: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer of three words, without "Assistant:", is not asked about."""
    short = {"image_id": 9, "answer": "Assistant: A red dog."}
    write(files / "answers.jsonl", [*ANSWERS[:2], short])
    rows = [{"question_id": id, "reply": REPLIES[id]} for id in ("7", "8")]
    write(files / "replies.jsonl", rows)
    more = ("--rule", "official", "--replies", str(files / "replies.jsonl"))
    monkeypatch.setitem(sys.modules, "spacy", None)
    assert main(given(files, *more)) == 2
    assert "need spaCy, which reads en_core_web_trf" in capsys.readouterr().err

    class Pipeline:
        def __init__(self) -> None:
            self.meta = {"lang": "en", "name": "fake", "version": "1"}

        def __call__(self, text: str) -> list[Any]:
            return [Token(word) for word in text.split()]

    class Token:
        def __init__(self, word: str) -> None:
            self.lemma_, self.tag_ = word.removesuffix("s"), "DT" if word == "a" else "NN"

    fake = ModuleType("spacy")
    fake.__version__ = "0"  # type: ignore[attr-defined]
    fake.load = lambda name: Pipeline()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spacy", fake)
    assert main(given(files, *more)) == 0
    found = values(files / "out")
    assert found["object_hall"] == pytest.approx(1 / 5) and found["without_objects"] == 1 / 3
    assert read_json(files / "out" / "scores.json")["about"]["tagger"] == "spaCy 0, en_fake 1"


def coco(folder: Path) -> Path:
    """COCO's files: image 8 is in train2014, with a dog in its caption alone."""
    folder.mkdir()
    outlined: dict[str, list[tuple[int, int]]] = {
        "train2014": [(8, 1)],
        "val2014": [(7, 1), (7, 18), (9, 67), (1, 1)],
    }
    said = {"train2014": [(8, "A puppy.")], "val2014": [(7, "Two men."), (9, "A table.")]}
    classes = {1: "person", 18: "dog", 67: "dining table"}
    names = [{"id": id, "name": name} for id, name in classes.items()]
    for part, places in outlined.items():
        rows: list[dict[str, Any]] = [{"image_id": i, "category_id": c} for i, c in places]
        write(folder / f"instances_{part}.json", {"annotations": rows, "categories": names})
        rows = [{"image_id": i, "caption": text} for i, text in said[part]]
        write(folder / f"captions_{part}.json", {"annotations": rows})
    return folder


def test_objects_are_those_of_coco_and_its_captions(files: Path) -> None:
    folder = coco(files / "annotations")
    answers = str(files / "answers.jsonl")
    assert main(words(files, "--answers", answers, "--annotations", str(folder))) == 0
    rows = read_jsonl(files / "out" / "answers.jsonl")
    assert [row["expected"] for row in rows] == [
        ["dog", "person"], ["dog", "person"], ["dining table"],
    ]  # fmt: skip


def test_a_model_sees_the_images_of_the_file(files: Path) -> None:
    write_scenes(files / "scenes", count=2)
    images = [path.read_bytes() for path in sorted((files / "scenes" / "images").iterdir())]
    rows = [
        {"image_id": n, "question": "Describe.", "image": base64.b64encode(content).decode()}
        for n, content in zip((7, 8), images, strict=True)
    ]
    write(files / "obj_halbench.jsonl", rows)
    objects = str(files / "objects.json")
    more = ("--model", "embedded", "--objects", objects, "--max-new-tokens", "4")
    assert main(words(files, *more)) == 0
    assert len(read_jsonl(files / "out" / "answers.jsonl")) == 2
    assert {p.name for p in (files / "out" / "question_images").iterdir()} == {"7.jpg", "8.jpg"}


def test_answers_in_the_order_of_the_questions(files: Path) -> None:
    texts = [{"question": "Describe.", "text": row["answer"]} for row in ANSWERS]
    write(files / "answers.jsonl", texts)
    assert main(given(files)) == 0
    assert values(files / "out") == pytest.approx(BY_WORDS)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("obj_halbench.jsonl", '{"image_id": 7}', "row 1: needs image_id"),
        ("obj_halbench.jsonl", '{"image_id": 7, "question": "a"}\n' * 2, "7 is there twice"),
        ("obj_halbench.jsonl", '{"image_id": 7, "question": "a", "image": 1}', "base64"),
        ("synonyms.txt", "\n", "has no words"),
        ("objects.json", '{"7": ["dog"], "8": ["dog"]}', "no list for image 9"),
        ("answers.jsonl", '{"text": "A dog."}', "1 answers without an image_id, to 3"),
    ],
)
def test_files_that_are_not_what_they_must_be(
    files: Path, name: str, content: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / name).write_text(content, encoding="utf-8")
    assert main(given(files)) == 2
    assert told in capsys.readouterr().err


def test_options_that_do_not_go_together(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(files, "--answers", str(files / "answers.jsonl"))) == 2
    assert "neither was given" in capsys.readouterr().err
    more = ("--model", "embedded", "--objects", str(files / "objects.json"))
    assert main(words(files, *more)) == 2
    assert "has no images" in capsys.readouterr().err
    folder = coco(files / "annotations")
    content = json.loads((folder / "captions_val2014.json").read_text())
    content["annotations"][0]["caption"] = None
    write(folder / "captions_val2014.json", content)
    answers = str(files / "answers.jsonl")
    assert main(words(files, "--answers", answers, "--annotations", str(folder))) == 2
    assert "should be a text" in capsys.readouterr().err
