"""The AMBER benchmark: its files, its command, what it needs, and its scores."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from amber_files import VECTORS, write_amber
from PIL import Image

from veridical.cli import main
from veridical.eval.amber_files import read_amber, read_lists
from veridical.eval.amber_metrics import COLUMNS, FORMULAS, by_kind, official_figures
from veridical.eval.amber_words import nouns_of, open_vectors
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.scoring.statistics import ClusterSums, estimate
from veridical.scoring.statistics.single import interval

SCORE = FORMULAS[0]

# Image 1 has a car and a tree, a safe word; image 2 a cup; of image 3 no noun that counts is said.
ANSWERS = [
    {"id": 1, "response": "A truck beside trees."},
    {"id": 2, "response": "A cup and a car."},
    {"id": 3, "response": "It is dark."},
    {"id": 4, "response": "Yes"},
    {"id": 5, "response": "No."},
    {"id": 6, "response": "Who knows"},
]


class Lemmatizer:
    """Takes an s off."""

    def lemmatize(self, word: str) -> str:
        return word.removesuffix("s")


@pytest.fixture
def nltk(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for NLTK, whose trained data no registry has: a few words are nouns."""
    fake, stem = ModuleType("nltk"), ModuleType("nltk.stem")
    nouns = {"truck", "trees", "cup", "car", "dog"}
    members: dict[str, Any] = {
        "__version__": "0",
        "word_tokenize": lambda text: re.findall(r"\w+", text),
        "pos_tag": lambda words: [(w, "NN" if w.lower() in nouns else "DT") for w in words],
    }
    for name, member in members.items():
        setattr(fake, name, member)
    stem.WordNetLemmatizer = Lemmatizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nltk", fake)
    monkeypatch.setitem(sys.modules, "nltk.stem", stem)
    return fake


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "vectors.txt").write_text(VECTORS, encoding="utf-8")
    (tmp_path / "answers.json").write_text(json.dumps(ANSWERS), encoding="utf-8")
    write_amber(tmp_path / "amber")
    return tmp_path


def words(files: Path, *more: str) -> list[str]:
    return ["eval", "amber", "--answers", str(files / "answers.json"), "--files",
            str(files / "amber"), "--vectors", str(files / "vectors.txt"), "--out",
            str(files / "out"), *more]  # fmt: skip


def values(folder: Path) -> dict[str, Any]:
    return {name: row["value"] for name, row in read_json(folder / "scores.json")["scores"].items()}


def test_answers_made_elsewhere_by_the_corrected_rule(files: Path, nltk: ModuleType) -> None:
    """2 of 4 nouns are wrong.

    Image 1: "truck" was expected to be invented, so it is wrong though a car is near it; "tree" is
    safe. Image 2: the cup is there, the car was expected.

    Yes/no: "No." is a no and right, "Who knows" is unparsed; of 2 true no, 1 was said, and it was
    the only one: precision 1, recall 1/2, F1 2/3; score (1 - 1/2 + 2/3) / 2.
    """
    assert main(words(files)) == 0
    found = values(files / "out")
    expected = {
        "chair": 2 / 4, "cover": 1 / 4, "hal": 2 / 3, "cog": 2 / 4, "without_nouns": 1 / 3,
        "accuracy": 2 / 3, "precision": 1.0, "recall": 1 / 2, "f1": 2 / 3, "unparsed": 1 / 3,
        "score": (1 - 1 / 2 + 2 / 3) / 2, "relation/accuracy": 0.0, "attribute/accuracy": 1.0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert "existence/chair" not in found and "state/f1" in found
    rows = {row["question_id"]: row for row in read_jsonl(files / "out" / "answers.jsonl")}
    assert rows["1"]["nouns"] == ["truck", "tree"] and rows["1"]["hallucinated"] == ["truck"]
    about = read_json(files / "out" / "scores.json")["about"]
    assert about["rule"] == "corrected" and about["nouns"].startswith("NLTK 0")
    assert "vectors.txt, sha256" in about["vectors"]
    inputs = read_json(files / "out" / "run.json")["inputs"]
    assert {"files", "answers/answers.json"} <= inputs.keys()


def test_the_official_rule_and_its_printed_figures(files: Path, nltk: ModuleType) -> None:
    """The truck is near the car: right, and an expected invention too. Only the car is wrong.

    "No." is not "No": nothing but "Yes" is read, so precision, recall and F1 are 0.
    """
    assert main(words(files, "--rule", "official")) == 0
    found, printed = values(files / "out"), read_json(files / "out" / "scores.json")["about"]
    expected = {"chair": 1 / 4, "cover": 2 / 4, "hal": 1 / 3, "cog": 2 / 4, "unparsed": 2 / 3}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert printed["printed/chair"] == 25.0 and printed["printed/hal"] == 33.4
    assert printed["printed/f1"] == 0.0 and printed["printed/score"] == 37.5
    # 1 / 1.001; the attribute's denominator is 0.003 more than 1.
    assert printed["printed/existence/accuracy"] == 99.9


def test_two_runs_are_compared(
    files: Path, nltk: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second model names no car: one wrong noun less of 4, so 1/3."""
    assert main(words(files)) == 0
    better = [{**row, "response": "A cup."} if row["id"] == 2 else row for row in ANSWERS]
    (files / "answers.json").write_text(json.dumps(better), encoding="utf-8")
    again = [word if word != str(files / "out") else str(files / "new") for word in words(files)]
    assert main(again) == 0
    folders = [str(files / "out"), str(files / "new"), "--out", str(files / "both")]
    assert main(["eval", "compare", *folders]) == 0
    shown = capsys.readouterr().out
    row = [line for line in shown.splitlines() if line.startswith("chair ")][-1]
    assert "0.500" in row and "0.333" in row


def test_the_embedded_model_answers_both_halves(files: Path, nltk: ModuleType) -> None:
    (files / "images").mkdir()
    for n, color in enumerate(["red", "green", "blue"], start=1):
        Image.new("RGB", (32, 32), color).save(files / "images" / f"AMBER_{n}.jpg")
    told = ["--model", "embedded", "--images", str(files / "images"), "--max-new-tokens", "8"]
    command = [
        w for w in words(files, *told) if w not in ("--answers", str(files / "answers.json"))
    ]
    assert main(command) == 0
    rows = read_jsonl(files / "out" / "answers.jsonl")
    assert [row["question_id"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert {row["prompt"] for row in rows if "nouns" in row} == {"Describe this image."}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ([*ANSWERS, ANSWERS[0]], "the same id: 1"),
        ([*ANSWERS, {"id": 99, "response": "Yes"}], "is to no question: 99"),
        (ANSWERS[:5], "no answer"),
    ],
)
def test_answers_that_do_not_fit(
    files: Path, nltk: ModuleType, change: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "answers.json").write_text(json.dumps(change), encoding="utf-8")
    assert main(words(files)) == 2
    assert told in capsys.readouterr().err


def test_missing_packages_and_data_are_named(
    files: Path, nltk: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(words: object) -> list[tuple[str, str]]:
        raise LookupError("Resource averaged_perceptron_tagger_eng not found.")

    monkeypatch.setattr(nltk, "pos_tag", lacking)
    with pytest.raises(UserError, match=r"nltk\.downloader punkt_tab averaged_perceptron_tagger"):
        nouns_of("A dog.", lower=True)
    for name in ("nltk", "spacy"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"need NLTK.*veridical\[text\]"):
        nouns_of("A dog.", lower=True)
    with pytest.raises(UserError, match=r"need spaCy.*en_core_web_lg"):
        open_vectors("en_core_web_lg")


def test_the_yes_no_half_needs_neither(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nltk", "spacy"):
        monkeypatch.setitem(sys.modules, name, None)
    (files / "answers.json").write_text(json.dumps(ANSWERS[3:]), encoding="utf-8")
    assert main(words(files, "--halves", "yes_no")) == 0
    found = values(files / "out")
    assert found["f1"] == pytest.approx(2 / 3) and found["chair"] is found["score"] is None


def test_a_pipeline_without_vectors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as en_core_web_sm, whose similarities come from something else."""

    class Pipeline:
        class vocab:  # noqa: N801
            vectors_length = 0

    fake = ModuleType("spacy")
    fake.load = lambda name: Pipeline()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spacy", fake)
    with pytest.raises(UserError, match="en_core_web_sm has no word vectors"):
        open_vectors("en_core_web_sm")

    def missing(name: str) -> None:
        raise OSError(name)

    fake.load = missing  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="python -m spacy download en_core_web_lg"):
        open_vectors("en_core_web_lg")


def test_vectors_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("a 1 0\nb 1 1\nnone 0 0\n")
    similar = open_vectors(str(tmp_path / "v.txt")).similar
    assert similar("a", "b") == pytest.approx(1 / math.sqrt(2))
    assert similar("a", "unknown") == similar("a", "none") == 0.0
    assert similar("unknown", "unknown") == 1.0
    for bad in ("a 1\nb 1 2\n", "a x\n", "a\n", "a nan\n"):
        (tmp_path / "v.txt").write_text(bad)
        with pytest.raises(UserError, match="row"):
            open_vectors(str(tmp_path / "v.txt"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("relation.json", [], "relation.json must be"),
        ("annotations.json", [{"id": 1, "type": "x"}], "row 1: type is 'x'"),
        ("annotations.json", [{"id": 1, "type": "relation", "truth": 1}], "yes or no"),
        (
            "annotations.json",
            [{"id": 1, "type": "generative", "truth": ["zebra"], "hallu": []}],
            "'zebra', which relation.json lacks",
        ),
        ("annotations.json", [], "annotations.json has no id 1"),
        ("query_generative.json", [{"id": 1}], "row 1: a query has id, image and query"),
        ("query_generative.json", {}, "must be a JSON list"),
    ],
)
def test_files_that_are_not_ambers(files: Path, name: str, content: Any, told: str) -> None:
    folder = files / "amber"
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(told)):
        read_amber(folder, "both", read_lists(folder))


@pytest.fixture
def published() -> Path:
    data = os.environ.get("VERIDICAL_TEST_DATA")
    if not data:
        pytest.skip("VERIDICAL_TEST_DATA names no folder of test data")
    return Path(data) / "benchmarks" / "amber"


def test_the_published_files(published: Path) -> None:
    """15,220 questions on 1,004 images; relation questions have two types."""
    questions = read_amber(published, "both", read_lists(published))
    counts = Counter(question.about["type"] for question in questions)
    assert counts["generative"] == len({question.image for question in questions}) == 1004
    assert sum(counts.values()) == 15_220
    rows = [
        {
            "type": q.about["type"],
            "expected": q.expected,
            "image_id": q.image_id,
            "parsed": q.expected,
        }
        for q in questions
        if q.about["type"] != "generative"
    ]
    sizes = {group: len(own) for group, own in by_kind(rows).items()}
    assert sizes == {"existence": 4924, "attribute": 7628, "state": 4764, "number": 2072,
                     "action": 792, "relation": 1664}  # fmt: skip
    # All answers right, as printed.
    figures = official_figures(rows)
    assert figures["accuracy"] == figures["precision"] == figures["recall"] == 100.0
    assert (figures["f1"], figures["existence/f1"]) == (100.0, 100.0)


def test_the_score_of_rows_that_say_the_same_is_bounded() -> None:
    """One description right and one question right per image: no spread, and no proof of 1."""
    columns = {name: np.ones(5) for name in COLUMNS} | {"hallucinated": np.zeros(5)}
    found = estimate(ClusterSums(tuple(range(5)), columns), [SCORE])["score"]
    assert found.value == found.high == 1.0
    assert found.low is not None and 0.4 < found.low < 0.7
    assert "not seen" in found.note


def test_the_interval_of_the_score_holds_the_truth() -> None:
    """400 evaluations of 100 images with 8 nouns, 10 % wrong, and 14 questions, half of them no.

    Of no, 80 % are seen; of yes, 10 % are called no: F1 = 2 * 0.4 / (0.45 + 0.5); the score is
    (1 - 0.1 + F1) / 2. Of 400 intervals of 95 %, 380 hold it, give or take 3 * 4.4.
    """
    random, shape = np.random.default_rng(1), (400, 100)
    rates = random.beta(1, 9, shape)
    true_no = random.binomial(7, random.beta(8, 2, shape)).astype(float)
    columns = {
        "answers": np.full(shape, 15.0),
        "nouns": np.full(shape, 8.0),
        "hallucinated": random.binomial(8, rates).astype(float),
        "true_no": true_no,
        "said_no": true_no + random.binomial(7, 0.1, shape),
        "is_no": np.full(shape, 7.0),
    }
    low, high = interval(SCORE, columns)
    truth = (1 - 0.1 + 2 * 0.4 / (0.45 + 0.5)) / 2
    assert 366 <= np.count_nonzero((low <= truth) & (truth <= high)) <= 394
