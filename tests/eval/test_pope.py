"""POPE's parsing and arithmetic by hand, and its recipe against the official questions."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluating import eval_pope
from PIL import Image

from veridical.cli.dispatch import main
from veridical.data.object_questions import (
    SPLITS,
    ObjectQuestion,
    build_questions,
    by_co_occurrence,
    by_frequency,
    negatives,
    question_text,
)
from veridical.eval.benchmark import score_rows
from veridical.eval.pope import BENCHMARK, _first_images
from veridical.eval.pope_matching import match_answers
from veridical.eval.pope_questions import read_questions
from veridical.eval.scores import read_scores
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.scoring.yes_no_answers import parse_answer

OBJECTS = {
    "a": ["dog", "cat"],
    "b": ["dog", "hat", "cup"],
    "c": ["dog", "cup", "orange"],
    "d": ["cat"],
    "e": [],
}


@pytest.mark.parametrize(
    ("answer", "strict", "official"),
    [
        ("Yes", "yes", "yes"),
        ("yes, there is a dog.", "yes", "yes"),
        ("No.", "no", "no"),
        ("No, there is a cat.", "no", "no"),
        ("There is a dog in the image.", "yes", "yes"),
        ("There is no dog in the image.", "no", "no"),
        ("The dog is not visible. Yes?", "no", "no"),
        ("There isn't a dog.", "no", "yes"),
        ("Yes, a dog, but not a big one", "yes", "no"),
        ("NO", "no", "yes"),
        ("**Yes**", "yes", "yes"),
        ("I see a knot.", None, "yes"),
        ("I am unsure", None, "yes"),
        ("", None, "yes"),
    ],
)
def test_parsing(answer: str, strict: str | None, official: str) -> None:
    assert parse_answer(answer) == strict
    assert parse_answer(answer, "official") == official


def _row(label: str, parsed: str | None, image: str = "1", split: str = "random") -> dict[str, Any]:
    return {"image_id": image, "split": split, "label": label, "parsed": parsed}


def test_metrics_by_hand() -> None:
    """Right: 2 yes, 1 no. Wrong: 1 yes for a no, 1 no for a yes, 1 unparsed for each."""
    rows = [
        _row("yes", "yes", "1"),
        _row("yes", "yes", "2"),
        _row("no", "no", "1"),
        _row("no", "yes", "2"),
        _row("yes", "no", "3"),
        _row("yes", None, "3"),
        _row("no", None, "4"),
    ]
    scores = score_rows(BENCHMARK, rows)
    value = {name: score.value for name, score in scores.items()}
    assert value["accuracy"] == pytest.approx(3 / 7)
    assert value["precision"] == pytest.approx(2 / 3)
    assert value["recall"] == pytest.approx(2 / 4)
    # 2 * (2/3) * (1/2) / (2/3 + 1/2) = 4/7
    assert value["f1"] == pytest.approx(4 / 7)
    assert value["yes_rate"] == pytest.approx(3 / 7)
    assert value["unparsed"] == pytest.approx(2 / 7)
    assert value["random/accuracy"] == value["accuracy"]
    assert scores["accuracy"].clusters == 4
    assert scores["precision"].n == 3
    assert scores["recall"].n == 4


def test_splits_are_scored_alone_and_together() -> None:
    scores = score_rows(BENCHMARK, [_row("yes", "yes"), _row("no", "yes", "2", "popular")])
    assert scores["random/accuracy"].value == 1.0
    assert scores["popular/accuracy"].value == 0.0
    assert scores["accuracy"].value == 0.5
    assert scores["popular/f1"].value == 0.0


def test_never_saying_yes_leaves_precision_undefined() -> None:
    scores = score_rows(BENCHMARK, [_row("yes", "no"), _row("no", "no", "2")])
    assert scores["precision"].value is None
    assert scores["f1"].value == 0.0
    assert scores["yes_rate"].value == 0.0


def test_tables_by_hand() -> None:
    assert by_frequency(OBJECTS.values()) == ["dog", "cat", "cup", "hat", "orange"]
    together = by_co_occurrence(OBJECTS.values())
    assert together["dog"] == ["cup", "cat", "hat", "orange"]
    assert together["cat"] == ["dog"]


def test_negatives_by_the_recipe() -> None:
    frequent = by_frequency(OBJECTS.values())
    together = by_co_occurrence(OBJECTS.values())

    def drawn(split: str, positives: list[str], image: str) -> list[str]:
        return negatives(split, positives, OBJECTS[image], frequent, together, image)

    # Absent from image a, the most frequent first: cup, hat, orange.
    assert drawn("popular", ["dog", "cat"], "a") == ["cup", "hat"]
    # With the dog most often: the cup. The cat is only ever seen with the dog: a random one.
    found = drawn("adversarial", ["dog", "cat"], "a")
    assert found[0] == "cup" and found[1] in ("hat", "orange")
    assert set(drawn("random", ["dog"], "a")) < {"cup", "hat", "orange"}


def test_built_questions_are_balanced_true_and_counted() -> None:
    built = build_questions(OBJECTS, {"a": "a.png"}, per_image=2, seed=1)
    assert built.skipped == ("e",)
    assert dict(built.short) == {"d": 1}
    assert Counter(question.label for question in built.questions) == {"yes": 21, "no": 21}
    assert Counter(question.split for question in built.questions) == dict.fromkeys(SPLITS, 14)
    assert [q.question_id for q in built.questions] == [str(i) for i in range(1, 43)]
    assert {q.image for q in built.questions if q.image_id == "a"} == {"a.png"}
    for question in built.questions:
        present = [question_text(name) for name in OBJECTS[question.image_id]]
        assert (question.text in present) == (question.label == "yes")
    assert any(q.text == "Is there an orange in the image?" for q in built.questions)


def test_splits_share_their_positives() -> None:
    built = build_questions(OBJECTS, per_image=2).questions
    positives = [
        [(q.image_id, q.text) for q in built if q.split == split and q.label == "yes"]
        for split in SPLITS
    ]
    assert positives[0] == positives[1] == positives[2]


def test_building_depends_on_the_seed_and_not_on_the_order() -> None:
    turned = {image: list(reversed(names)) for image, names in reversed(OBJECTS.items())}
    assert build_questions(OBJECTS, seed=3) == build_questions(turned, seed=3)
    assert build_questions(OBJECTS, seed=3) != build_questions(OBJECTS, seed=4)


def test_nothing_to_ask_is_an_error() -> None:
    with pytest.raises(UserError, match="No question can be built"):
        build_questions({"a": ["dog"], "b": ["dog"], "c": []})


def _asked(
    questions: Sequence[ObjectQuestion],
) -> dict[str, tuple[list[str], list[str]]]:
    """Image to the objects asked about: (present, absent)."""
    asked: dict[str, tuple[list[str], list[str]]] = {}
    for question in questions:
        found = re.fullmatch(r"Is there an? (.+) in the image\?", question.text)
        assert found
        sides = asked.setdefault(question.image, ([], []))
        sides[question.label == "no"].append(found.group(1))
    return asked


@pytest.mark.parametrize("split", ["popular", "adversarial"])
def test_official_negatives_follow_from_the_official_tables(test_data: Path, split: str) -> None:
    """Popular: all 500 images. Adversarial: all but the 3 questions with a random fallback."""
    folder = test_data / "pope"
    questions = read_questions([folder / f"coco_pope_{split}.json"])
    counts: Mapping[str, int] = read_json(folder / "coco_ground_truth_objects.json")
    frequent = sorted(counts, key=lambda name: -counts[name])
    together = read_json(folder / "coco_co_occur.json")
    there = read_json(test_data / "chair" / "ground_truth_objects.json")
    asked = _asked(questions)
    assert len(asked) == 500
    different = 0
    for image, (positives, absent) in asked.items():
        present = there[str(int(image[-16:-4]))]
        ours = negatives(split, positives, present, frequent, together, image)
        different += len(set(ours) - set(absent))
    assert different <= (3 if split == "adversarial" else 0)


@pytest.mark.parametrize("split", SPLITS)
def test_built_questions_have_the_shape_of_the_official(test_data: Path, split: str) -> None:
    official = read_questions([test_data / "pope" / f"coco_pope_{split}.json"])
    assert {question.split for question in official} == {split}
    there = read_json(test_data / "chair" / "ground_truth_objects.json")
    names = {question.image: str(int(question.image[-16:-4])) for question in official}
    built = build_questions({image: there[name] for image, name in names.items()})
    own = [question for question in built.questions if question.split == split]
    assert len(own) == len(official) == 3000
    assert not built.short and not built.skipped
    assert [q.label for q in own] == [q.label for q in official]
    assert {q.text.split()[2] for q in own} == {q.text.split()[2] for q in official}


def _question(number: int, split: str = "random", label: str = "yes") -> dict[str, Any]:
    return {
        "question_id": number,
        "image": f"{number}.jpg",
        "text": "Is there a dog in the image?",
        "label": label,
        "split": split,
    }


def test_ids_that_repeat_across_splits_are_matched_in_order(tmp_path: Path) -> None:
    for split in SPLITS:
        rows = [{**_question(i), "text": f"{split} {i}"} for i in (1, 2)]
        write_jsonl(tmp_path / f"my_{split}_set.json", [_without(r, "split") for r in rows])
    questions = read_questions([tmp_path / f"my_{split}_set.json" for split in SPLITS])
    assert [q.split for q in questions] == [split for split in SPLITS for _ in (1, 2)]
    answers = [{"question_id": i, "answer": f"{split} {i}"} for split in SPLITS for i in ("2", "1")]
    matched = match_answers(questions, answers)
    assert [row["answer"] for row in matched] == [q.text for q in questions]
    # With a split of their own, answers may come in any order.
    named = [{**row, "split": row["answer"].split()[0]} for row in reversed(answers)]
    assert match_answers(questions, named) == [
        {**row, "split": q.split} for row, q in zip(matched, questions, strict=True)
    ]


def _without(row: Mapping[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != field}


def test_missing_and_surplus_answers_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "q.jsonl", [_question(1), _question(2)])
    questions = read_questions([tmp_path / "q.jsonl"])
    with pytest.raises(UserError, match=r"1 question ids .* 2 \(1 asked, 0 answered\)"):
        match_answers(questions, [{"question_id": "1", "answer": "yes"}])
    with pytest.raises(UserError, match=r"3 \(0 asked, 1 answered\)"):
        match_answers(questions, [{"question_id": i, "answer": "yes"} for i in "123"])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"label": "maybe"}, "row 1: label must be yes or no"), ({"text": None}, "row 1: .* has")],
)
def test_broken_questions_name_their_row(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    row = {**_question(1), **change}
    broken = row if row["text"] is not None else _without(row, "text")
    write_jsonl(tmp_path / "q.jsonl", [broken])
    with pytest.raises(UserError, match=message):
        read_questions([tmp_path / "q.jsonl"])


def test_run_on_answers_made_elsewhere(tmp_path: Path) -> None:
    questions = [_question(1), _question(2, label="no"), _question(3, "popular", "no")]
    write_jsonl(tmp_path / "q.jsonl", questions)
    said = ["Yes.", "No.", "I wonder."]
    answers = [{"question_id": i + 1, "answer": text} for i, text in enumerate(said)]
    write_jsonl(tmp_path / "a.jsonl", answers)
    eval_pope(tmp_path / "out", questions=[tmp_path / "q.jsonl"], answers=[tmp_path / "a.jsonl"])
    scores = read_scores(tmp_path / "out")
    assert scores["accuracy"]["value"] == pytest.approx(2 / 3)
    assert scores["unparsed"]["value"] == pytest.approx(1 / 3)
    rows = read_jsonl(tmp_path / "out" / "answers.jsonl")
    assert [row["parsed"] for row in rows] == ["yes", "no", None]
    assert read_json(tmp_path / "out" / "run.json")["results"] == {"answers": 3, "skipped": 0}


def test_contradicting_options_are_explained(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, {})
    with pytest.raises(UserError, match="neither was given"):
        eval_pope(tmp_path / "out")
    with pytest.raises(UserError, match="--questions must name"):
        eval_pope(tmp_path / "out", answers=[file])
    with pytest.raises(UserError, match="--images must name"):
        eval_pope(tmp_path / "out", model="embedded", objects=file)
    with pytest.raises(UserError, match="both were"):
        eval_pope(
            tmp_path / "out", model="embedded", images=tmp_path, objects=file, questions=[file]
        )


@pytest.mark.parametrize(("unparsed", "said"), [(1, False), (2, True)])
def test_many_unparsed_answers_suggest_an_instruction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unparsed: int, said: bool
) -> None:
    """1 of 20 is 5 %: nothing is said. 2 of 20 are more."""
    questions = [
        {"question_id": n, "image": f"{n}.png", "text": "Is there a dog in the image?",
         "label": "yes"} for n in range(20)
    ]  # fmt: skip
    answers = [
        {"question_id": n, "answer": "Not sure" if n < unparsed else "Yes"} for n in range(20)
    ]
    write_jsonl(tmp_path / "q.jsonl", questions)
    write_jsonl(tmp_path / "a.jsonl", answers)
    eval_pope(tmp_path / "run", questions=[tmp_path / "q.jsonl"], answers=[tmp_path / "a.jsonl"])
    assert ("--instruction" in capsys.readouterr().out) is said


def _about(*images: str, split: str = "random") -> list[ObjectQuestion]:
    return [
        ObjectQuestion(str(n), f"{image}.png", image, split, "Is there a dog in the image?", "yes")
        for n, image in enumerate(images)
    ]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"image": "b.png"}, r"question_id 0 is to the image 'b.png', .* 'a.png' \(random\)"),
        ({"question": "Is there a cat in the image?"}, "to the question 'Is there a cat"),
    ],
)
def test_an_answer_to_another_question_is_refused(own: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        match_answers(_about("a"), [{"question_id": "0", "answer": "Yes", **own}])


def test_an_answer_that_says_the_same_is_taken() -> None:
    own = {"image": "images/a.jpg", "question": "is there a dog in the image? "}
    assert match_answers(_about("a"), [{"question_id": "0", "answer": "Yes", **own}])


def test_a_split_in_some_answers_only_is_refused() -> None:
    answers = [
        {"question_id": "0", "answer": "Yes", "split": "random"},
        {"question_id": "1", "answer": "Yes"},
    ]
    with pytest.raises(UserError, match=r"1 of 2 answers has a `split`.* such as 1"):
        match_answers(_about("a", "b"), answers)


def test_a_thought_before_the_answer_is_not_scored(tmp_path: Path) -> None:
    """Every thought says the wrong word: the accuracy is 1, not 0."""
    marks = [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thinking>", "</thinking>")]
    rows = [
        {"question_id": n, "answer": f"{opening}No, I think.{closing}\n\nYes"}
        for n, (opening, closing) in enumerate(marks)
    ]
    write_jsonl(tmp_path / "q.jsonl", [q.as_json() for q in _about("a", "b", "c")])
    write_jsonl(tmp_path / "a.jsonl", rows)
    scores = eval_pope(
        tmp_path / "run", questions=[tmp_path / "q.jsonl"], answers=[tmp_path / "a.jsonl"]
    )
    assert scores["accuracy"].value == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_answers_in_files_of_another_order(
    tmp_path: Path, test_data: Path, order: tuple[int, ...]
) -> None:
    folder = test_data / "cases" / "pope-misaligned"
    answers = [folder / f"answers_{SPLITS[n]}.jsonl" for n in order]
    questions = [folder / f"coco_pope_{split}.json" for split in SPLITS]
    if order == (0, 1, 2):
        assert eval_pope(tmp_path, questions=questions, answers=answers)["accuracy"].value
        return
    with pytest.raises(UserError, match="same order as --questions"):
        eval_pope(tmp_path, questions=questions, answers=answers)


def test_the_word_coco_is_a_vocabulary_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def built(*given: Any) -> Any:
        names.extend(given[4])
        raise UserError("far enough")

    monkeypatch.setattr("veridical.eval.pope.build_questions", built)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    write_json(tmp_path / "objects.json", OBJECTS)
    words = ["eval", "pope", "embedded", "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    words += ["--objects", str(tmp_path / "objects.json"), "--vocabulary"]
    assert main([*words, "coco"]) == 2
    assert "far enough" in capsys.readouterr().err
    assert len(names) == 80
    assert main([*words, "other"]) == 2
    assert "other does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"margin": "x"}, "margin 'x'; it has to be a finite number"),
        ({"margin": None}, "margin None"),
        ({"margin": True}, "margin True"),
        ({"margin": float("inf")}, "margin inf"),
        ({"prompt": ["x"]}, r"prompt \['x'\]; it has to be a text"),
    ],
)
def test_a_margin_made_elsewhere_has_to_be_a_number(
    tmp_path: Path, own: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions, answers = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    write_jsonl(questions, [_question(1), _question(2, label="no")])
    good = [{"question_id": n, "answer": "Yes", "margin": 2 - n} for n in (1, 2)]
    write_jsonl(answers, good)
    scores = eval_pope(tmp_path / "good", questions=[questions], answers=[answers])
    assert scores["auc"].value == 1.0
    given = [good[0], good[1] | own]
    monkeypatch.setattr("veridical.eval.pope_matching.read_answer_rows", lambda *_: given)
    with pytest.raises(UserError, match=f"question_id 2 has the {message}"):
        eval_pope(tmp_path / "bad", questions=[questions], answers=[answers])


def test_the_advice_is_printed_by_whichever_process_had_the_last_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "q.jsonl", [_question(1)])
    write_jsonl(tmp_path / "a.jsonl", [{"question_id": 1, "answer": "Well"}])
    monkeypatch.setattr("veridical.runtime.processes.is_first", lambda: False)
    monkeypatch.setattr(sys, "__stdout__", io.StringIO())
    eval_pope(tmp_path / "o", questions=[tmp_path / "q.jsonl"], answers=[tmp_path / "a.jsonl"])
    assert "neither yes nor no" in sys.__stdout__.getvalue()  # type: ignore[union-attr]


def test_a_limit_counts_images_as_people_do(tmp_path: Path) -> None:
    """Of images 9 and 10 the first is 9."""
    rows = [ObjectQuestion(str(n), f"{n}.jpg", str(n), "random", "Is it?", "yes") for n in (10, 9)]
    assert [question.image_id for question in _first_images(rows, 1)] == ["9"]
