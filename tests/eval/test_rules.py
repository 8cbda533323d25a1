"""One file of answers by every harness's rule; the logs of harnesses; power."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amber_files import write_amber
from evaluating import eval_pope
from published_files import PUBLISHED, write_published

from veridical.cli import main
from veridical.eval.answers import read_answer_rows
from veridical.eval.harness_sets import SETS
from veridical.eval.power import eval_power, spread_of, units_for
from veridical.eval.rules import eval_rules
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.scoring.statistics import ClusterSums, Metric, Ratio, compare

LABELS = ("yes", "no", "yes", "no")
ANSWERS = ("Yes.", "No, I see no dog.", "Perhaps.", "No")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    asked = [
        {"question_id": n, "image": f"{n}.jpg", "text": "Is there a dog?", "label": label}
        for n, label in enumerate(LABELS)
    ]
    write_jsonl(tmp_path / "coco_pope_random.json", asked)
    write_jsonl(tmp_path / "relabeled_random.json", [asked[0], {**asked[1], "label": "yes"}])
    write_jsonl(
        tmp_path / "said.jsonl", [{"question_id": n, "answer": a} for n, a in enumerate(ANSWERS)]
    )
    return tmp_path


def test_rules_side_by_side(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Strict 3 of 4; POPE takes "Perhaps." for a yes, lmms-eval reads "No" alone."""
    rows = eval_rules(
        [files / "said.jsonl"], files / "out", questions=[files / "coco_pope_random.json"],
        relabeled=[files / "relabeled_random.json"],
    )  # fmt: skip
    plain: dict[str, Any] = {
        str(row["rule"]): row for row in rows if row["labels"] == "as published"
    }
    assert [row["accuracy"] for row in plain.values()] == [0.75, 1.0, 0.75, 0.25, 0.75]
    kinds = plain["lmms-eval"]["otherwise"]
    assert [(kind["ours"], kind["here"], kind["answers"]) for kind in kinds] == [
        ("yes", "neither", 1), ("no", "neither", 1),
    ]  # fmt: skip
    relabeled = [row for row in rows if row["labels"] == "RePOPE's"]
    assert relabeled[0]["answers"] == 2 and relabeled[0]["accuracy"] == 0.5
    printed = capsys.readouterr().out
    assert "yes_rate is that of the labels" in printed and "2 questions taken out" in printed
    assert read_json(files / "out" / "rules.json")["rules"] == rows
    assert (files / "out" / "rules.tex").is_file()


# By benchmark: answers to the questions of its small published files, and what each rule makes of
# them, ours first.
BY_BENCHMARK: dict[str, tuple[list[str], list[dict[str, float | None]]]] = {
    # Two objects are not there, two are. "know" has a "no" in it, "Eyes" a "yes".
    "dash_b": (
        ["I know.", "Eyes only.", "Yes.", "No."],
        [{"accuracy": 1 / 4, "tpr": 1 / 2, "tnr": 0, "neither": 1 / 2},
         {"accuracy": 2 / 4, "tpr": 1 / 2, "tnr": 1 / 2, "neither": 0}],
    ),
    # Not to know is right of the first, without a figure. Two pairs of three, three figures of
    # four. By words "No, yes." and "Nope." are neither, and the first, without an image, is not
    # asked: four right of six, one pair of three, three figures of four.
    "hallusionbench": (
        ["I don't know.", "Yes.", "No.", "Yes.", "No.", "No, yes.", "Nope."],
        [{"aAcc": 6 / 7, "qAcc": 2 / 3, "fAcc": 3 / 4, "neither": 2 / 7},
         {"aAcc": 4 / 6, "qAcc": 1 / 3, "fAcc": 3 / 4, "neither": 2 / 6, "answers": 6}],
    ),
    # Eight people say "the cola.", two "Coke": 0.6. Of 40 periods 8 stay.
    "textvqa": (
        ["." * 40 + "cola", "Coke", "Cola"],
        [{"accuracy": 2.6 / 3, "wrong": 0}, {"accuracy": 1.6 / 3, "wrong": 1 / 3},
         {"accuracy": 1.6 / 3, "wrong": 1 / 3}],
    ),
    # Of the answers "two" becomes 2 and "a few" few; of people's, by VQAv2's rule, nothing.
    "vqav2": (
        ["two", "a few"],
        [{"accuracy": 1, "wrong": 0}, {"accuracy": 0, "wrong": 1}, {"accuracy": 1, "wrong": 0}],
    ),
    "gqa": (
        ["A cup.", "Yes."],
        [{"accuracy": 1, "wrong": 0}, {"accuracy": 0, "wrong": 1},
         {"accuracy": 1 / 2, "wrong": 1 / 2}, {"accuracy": 0, "wrong": 1}],
    ),
    # The third has "a cat" as C; "A" is taken for a letter, but not of more than three words with
    # VERBOSE.
    "mmbench": (
        ["B", "A", "A cat, I think.", "yes", "B"],
        [{"circular": 1, "vanilla": 1, "single": 1, "neither": 0},
         {"circular": 1 / 2, "vanilla": 1, "single": 4 / 5, "neither": 0},
         {"circular": 1, "vanilla": 1, "single": 1, "neither": 0}],
    ),
}  # fmt: skip


def test_questions_without_an_answer_are_skipped_and_counted(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of four is a quarter; `eval pope` does the same."""
    write_jsonl(files / "said.jsonl", read_jsonl(files / "said.jsonl")[:3])
    given = ["--answers", str(files / "said.jsonl"), "--questions"]
    given += [str(files / "coco_pope_random.json"), "--max-bad-fraction"]
    for command in ("rules", "pope"):
        asked = ["eval", command, *given]
        assert main([*asked, "0.2", "--out", str(files / command)]) == 2
        assert "1 of 4 questions cannot be used, more than" in capsys.readouterr().err
        assert main([*asked, "0.25", "--out", str(files / command)]) == 0
        (skipped,) = read_jsonl(files / command / "skipped.jsonl")
        assert (skipped["id"], skipped["reason"]) == ("3", "no answer")
    assert read_json(files / "rules" / "rules.json")["rules"][0]["answers"] == 3


@pytest.mark.parametrize("benchmark", BY_BENCHMARK)
def test_rules_of_other_benchmarks_by_hand(
    benchmark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers, wanted = BY_BENCHMARK[benchmark]
    found = write_published(tmp_path)
    said = [
        {"question_id": id, "answer": answer}
        for id, answer in zip(PUBLISHED[benchmark].ids, answers, strict=True)
    ]
    write_jsonl(tmp_path / "said.jsonl", said)
    rows = eval_rules(
        [tmp_path / "said.jsonl"], tmp_path / "out", benchmark,
        files=found[f"{benchmark}_files"], questions_file=found.get(f"{benchmark}_questions"),
    )  # fmt: skip
    assert len(rows) == len(wanted)
    for row, own in zip(rows, wanted, strict=True):
        assert {name: row[name] for name in own} == pytest.approx(own), row["rule"]
    printed = capsys.readouterr().out
    assert SETS[benchmark].missing in printed and all(str(row["rule"]) in printed for row in rows)


def test_rules_of_ambers_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """AMBER reads "No" alone: 1 of 3, with 0.001 in every denominator, and rounded.

    Precision 1 / 1.001 = 99.9, recall 1 / 2.001 = 50.0, F1 2 x 0.999 x 0.5 / 1.4991 = 66.6.
    """
    said = ["A car.", "A cup.", "A dog.", "Yes.", "No", "Not at all, no."]
    write_json(
        tmp_path / "said.json", [{"id": n, "response": text} for n, text in enumerate(said, 1)]
    )
    rows = eval_rules(
        [tmp_path / "said.json"], tmp_path / "out", "amber", files=write_amber(tmp_path / "amber")
    )
    ours, official, words = rows
    names = ("accuracy", "precision", "recall", "f1")
    assert [ours[name] for name in (*names, "kinds")] == [1] * 5
    assert [official[name] for name in names] == pytest.approx([0.333, 0.999, 0.5, 0.666])
    assert words["kinds"] == 1 and words["f1"] is None
    assert "3 answers to no yes/no question are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pope needs --questions"),
        ({"benchmark": "mmhal"}, "no other harness's rule is known for it; there is pope, dash_b"),
        ({"benchmark": "gqa"}, "gqa needs --files"),
        ({"benchmark": "vqav2", "files": Path("a")}, "vqav2 needs --questions-file"),
        ({"benchmark": "gqa", "files": Path("a"), "relabeled": [Path("b")]}, "--relabeled is not"),
    ],
)
def test_options_of_rules_that_do_not_go_together(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        eval_rules([tmp_path / "said.jsonl"], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def lmms(**more: Any) -> list[dict[str, Any]]:
    return [
        {"doc_id": n, "doc": {"question_id": str(n), "question": "Is there a dog?",
                              "category": "random", "answer": LABELS[n]},
         "target": LABELS[n], "resps": [[said]], "filtered_resps": [said.lower()], **more}
        for n, said in enumerate(ANSWERS)
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["lines", "one object", "tsv", "json list"])
def test_logs_of_harnesses_are_answers(files: Path, form: str) -> None:
    vlm = [{"index": n, "question": "Is there a dog?", "answer": LABELS[n], "prediction": said}
           for n, said in enumerate(ANSWERS)]  # fmt: skip
    path = files / ("log.tsv" if form == "tsv" else "log.json")
    if form == "lines":
        write_jsonl(path, lmms())
    elif form == "one object":
        path.write_text(json.dumps({"args": {}, "logs": lmms()}))
    elif form == "json list":
        path.write_text(json.dumps(vlm))
    else:
        lines = ["\t".join(vlm[0]), *("\t".join(map(str, row.values())) for row in vlm)]
        path.write_text("\n".join(lines) + "\n")
    rows = read_answer_rows(path, "question_id")
    assert [(row["question_id"], row["answer"]) for row in rows] == [
        (str(n), said) for n, said in enumerate(ANSWERS)
    ]
    scores = eval_pope(
        files / "out", questions=[files / "coco_pope_random.json"], answers=[path]
    )  # fmt: skip
    assert scores["accuracy"].value == 0.75


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("log.jsonl", json.dumps(lmms(resps=[["a"], ["b"]])[0]), "needs one response, and has 2"),
        ("log.json", '[{"index": 1, "question": "a", "prediction": 2}]', "prediction must be a"),
        ("log.tsv", "index\tquestion\tprediction\n1\ta\n", "more or fewer cells"),
        ("log.xlsx", "PK", "is a workbook"),
    ],
)
def test_logs_that_can_not_be_read(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=told):
        read_answer_rows(tmp_path / name, "question_id")


def test_power_by_hand(tmp_path: Path) -> None:
    """A tenth of the items differ: variance 0.1 - 0.02^2, (1.96 + 0.8416)^2 / 0.02^2 of it."""
    rows = eval_power(tmp_path / "out", differing=0.1)
    assert rows[0]["needed"] == 1955  # 7.8489 * 0.0996 / 0.0004 = 1954.4
    assert read_json(tmp_path / "out" / "power.json")["rows"] == rows
    with pytest.raises(UserError, match="is less than --difference"):
        eval_power(tmp_path / "out", differing=0.01)
    with pytest.raises(UserError, match="Give either a pilot"):
        eval_power(tmp_path / "out", tmp_path, differing=0.1)


def test_a_pilot_says_what_it_takes(files: Path) -> None:
    folders = []
    for name, said in (("a", ANSWERS), ("b", ("Yes.", "Yes.", "Yes.", "No"))):
        rows = [{"question_id": n, "answer": answer} for n, answer in enumerate(said)]
        write_jsonl(files / f"{name}.jsonl", rows)
        eval_pope(
            files / name, questions=[files / "coco_pope_random.json"],
            answers=[files / f"{name}.jsonl"],
        )  # fmt: skip
        folders.append(files / name)
    # Per image 0, -1, 1 and 0: variance 2/3; the difference is 0.
    found = eval_power(files / "power", folders[0], folders[1], difference=0.5)[0]
    assert found["spread"] == pytest.approx(np.sqrt(2 / 3)) and found["at_hand"] == 4
    assert found["needed"] == 21  # 7.8489 * 0.6667 / 0.25 = 20.9
    with pytest.raises(UserError, match="does not vary"):
        eval_power(files / "power", folders[0], folders[0])


def test_the_power_is_what_was_asked_for() -> None:
    """Two models on images with 3 questions each: 80 % of 150 comparisons find the difference."""
    metric = Metric("accuracy", Ratio("right", "n"), "n")
    rng = np.random.default_rng(0)

    def pair(images: int) -> tuple[ClusterSums, ClusterSums]:
        hard = rng.beta(2, 2, (images, 1))
        draw = rng.random((images, 3))
        noisy = hard + 0.1 * rng.normal(size=(images, 3))
        sides = (draw < noisy + 0.06).sum(1), (draw < hard).sum(1)
        ids = tuple(range(images))
        ours, theirs = (
            ClusterSums(ids, {"right": side.astype(float), "n": np.full(images, 3.0)})
            for side in sides
        )
        return ours, theirs

    spread = spread_of(*pair(20000), metric)
    images = units_for(spread, 0.06, 0.8)
    found = [compare(*pair(images), [metric])["accuracy"].p for _ in range(150)]
    seen = np.mean([p is not None and p < 0.05 for p in found])
    assert 0.7 < seen < 0.92


def test_samples_without_documents_say_by_their_metric_what_was_asked(tmp_path: Path) -> None:
    """Newer lmms-eval leaves `doc` out; `doc_id` is a place, and POPE's ids begin at 1."""
    about = [{"question_id": str(n + 1), "category": "random", "score": 1.0} for n in range(2)]
    log = [
        {"doc_id": n, "target": "yes", "filtered_resps": ["Yes"], "input": "Is it?", **more}
        for n, more in enumerate({"pope_accuracy": own, "pope_f1_score": own} for own in about)
    ]
    write_jsonl(tmp_path / "log.jsonl", log)
    rows = read_answer_rows(tmp_path / "log.jsonl", "question_id")
    assert [(row["question_id"], row["split"]) for row in rows] == [
        ("1", "random"),
        ("2", "random"),
    ]
    write_jsonl(
        tmp_path / "log.jsonl", [{**row, "pope_accuracy": 1, "pope_f1_score": 1} for row in log]
    )
    with pytest.raises(UserError, match="row 1: the sample has no `doc`"):
        read_answer_rows(tmp_path / "log.jsonl", "question_id")
    # A document without an id says as little as none.
    write_jsonl(tmp_path / "log.jsonl", [{**row, "doc": {"question": "Is it?"}} for row in log])
    assert [
        row["question_id"] for row in read_answer_rows(tmp_path / "log.jsonl", "question_id")
    ] == ["1", "2"]
    none = {"pope_accuracy": 1, "pope_f1_score": 1, "doc": {"question": "Is it?"}}
    write_jsonl(tmp_path / "log.jsonl", [{**row, **none} for row in log])
    with pytest.raises(UserError, match="row 1: `doc` has no id"):
        read_answer_rows(tmp_path / "log.jsonl", "question_id")


def test_logs_of_benchmarks_whose_ids_are_their_own(tmp_path: Path) -> None:
    """VLMEvalKit's MMBench has an index; HallusionBench's documents number questions by set."""
    files = write_published(tmp_path)
    ids = PUBLISHED["mmbench"].ids
    lines = ["index\tquestion\tanswer\tprediction", *(f"{id}\tq\tA\tB" for id in ids)]
    (tmp_path / "mmbench.tsv").write_text("\n".join(lines) + "\n")
    rows = read_json(files["hallusionbench_files"])
    log = [{"doc_id": n, "doc": doc, "resps": [["Yes"]]} for n, doc in enumerate(rows)]
    write_jsonl(tmp_path / "log.jsonl", log)
    answers = {"mmbench": tmp_path / "mmbench.tsv", "hallusionbench": tmp_path / "log.jsonl"}
    for name, path in answers.items():
        words = ["eval", name, "--files", str(files[f"{name}_files"]), "--answers", str(path)]
        assert main([*words, "--out", str(tmp_path / "out" / name)]) == 0
        assert len(read_jsonl(tmp_path / "out" / name / "answers.jsonl")) == len(
            PUBLISHED[name].ids
        )
