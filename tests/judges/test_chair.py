"""The judge by CHAIR and recall, on cases small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from veridical.cli import main
from veridical.data.prompts import Prompt
from veridical.data.records import read_records, text_of
from veridical.data.vocabulary import vocabulary_of
from veridical.judges.chair import ChairWeights, chair_judge
from veridical.judges.judging import Case
from veridical.judges.named import JudgeRuntime, Judging, open_marks, total_score
from veridical.runtime.files import read_json, write_json, write_jsonl

WORDS = vocabulary_of({"dog": ["puppy"], "cat": [], "hat": [], "cup": []})
OBJECTS = {"1": ["dog", "cat"], "2": []}


def score(answer: str, image: str = "1", weights: ChairWeights = ChairWeights()) -> float:
    (verdict,) = chair_judge(OBJECTS, WORDS, weights)([Case(Prompt(image, (), ()), (answer,))])
    return total_score(verdict.ratings[0])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A dog and a cat.", 1 - 0),
        ("A dog.", 1 / 2),
        ("A dog, a hat and a hat.", 1 / 2 - 2 / 3),  # mentions count, not objects
        ("A dog, a puppy and a hat.", 1 / 2 - 1 / 3),
        ("A hat.", 0 - 1),
        ("Nothing.", 0),
    ],
)
def test_recall_less_the_share_of_wrong_mentions(answer: str, expected: float) -> None:
    assert score(answer) == pytest.approx(expected)


def test_weights_and_an_image_of_nothing() -> None:
    weights = ChairWeights(chair_weight=0.5, recall_weight=2)
    assert score("A dog and a hat.", weights=weights) == pytest.approx(2 * 1 / 2 - 0.5 * 1 / 2)
    assert score("Nothing.", "2") == 1
    (verdict,) = chair_judge(OBJECTS, WORDS)([Case(Prompt("3", (), ()), ("A dog.",))])
    assert verdict.problem == "the image has no object list"


def test_it_ranks_samples_where_the_exact_judge_ranks_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By mentions 1/5 are wrong and recall is 1, so 0.8 against 0.5; one object is invented."""
    bold, timid = "A dog, a cat, a dog, a cat and a hat.", "A dog."
    rows = [{"id": "1", "images": [], "prompt": "What?", "responses": [timid, bold]}]
    write_jsonl(tmp_path / "samples.jsonl", rows)
    write_json(tmp_path / "objects.json", OBJECTS)
    write_json(tmp_path / "words.json", {"dog": [], "cat": [], "hat": []})
    truth = [
        "--objects",
        str(tmp_path / "objects.json"),
        "--vocabulary",
        str(tmp_path / "words.json"),
    ]
    chosen = {}
    for name, judge in (
        ("chair", ["chair"]),
        ("exact", ["exact"]),
        ("wary", ["chair", "--chair-weight", "9"]),
    ):
        words = [
            "build",
            "rank",
            str(tmp_path / "samples.jsonl"),
            *truth,
            "--out",
            str(tmp_path / name),
        ]
        assert main([*words, "--judge", *judge]) == 0
        (row,) = read_records(tmp_path / name / "pairs.parquet", "preference").rows
        chosen[name] = text_of(row["chosen"])
    assert chosen == {"chair": bold, "exact": timid, "wary": timid}
    assert read_json(tmp_path / "chair" / "summary.json")["decided"] == 1
    words = ["build", "rank", str(tmp_path / "samples.jsonl"), "--out", str(tmp_path / "no")]
    assert main([*words, "--judge", "chair"]) == 2
    assert "--judge chair and --objects go together" in capsys.readouterr().err


def test_training_opens_it_too(tmp_path: Path) -> None:
    write_json(tmp_path / "objects.json", OBJECTS)
    write_json(tmp_path / "words.json", {"dog": [], "cat": [], "hat": []})
    judging = Judging(
        judge="chair", objects=tmp_path / "objects.json", vocabulary=tmp_path / "words.json"
    )
    judging.check()
    (verdict,) = open_marks(judging, JudgeRuntime(tmp_path))(
        [Case(Prompt("1", (), ()), ("A dog and a hat.",))]
    )
    assert total_score(verdict.ratings[0]) == pytest.approx(1 / 2 - 1 / 2)
