"""Ratings by truth, the best response, and pairs, each by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from PIL import Image

from veridical.builders._parts import Parts
from veridical.builders._rated import RatedSample
from veridical.builders._row_parts import RowParts
from veridical.builders.pairs import choose_pairs
from veridical.builders.rate import length_points
from veridical.cli.dispatch import main
from veridical.data.messages import text_of
from veridical.data.records import read_records
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl

RESPONSES = {
    "a": ["A dog and a hat.", "A dog and a cat.", "A dog.", "A cat and a dog."],
    "b": ["A cat.", "Nothing."],
}


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Two prompts about images with lists: a dog and a cat, and a dog."""
    rows = []
    for name, texts in RESPONSES.items():
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        rows.append(
            {"id": f"row-{name}", "images": [f"{name}.png"], "prompt": "What is there?",
             "responses": texts, "source": "mine"}
        )  # fmt: skip
    write_jsonl(tmp_path / "samples.jsonl", rows)
    write_json(tmp_path / "objects.json", {"a": ["dog", "cat"], "b": ["dog"]})
    write_json(tmp_path / "words.json", {"dog": [], "cat": [], "hat": []})
    return tmp_path / "samples.jsonl"


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def rated(samples: Path) -> Path:
    """The samples with their ratings."""
    folder = samples.parent
    options = ("--objects", folder / "objects.json", "--vocabulary", folder / "words.json")
    assert run("build", "rate", samples, *options, "--out", folder / "rated") == 0
    return folder / "rated" / "samples.parquet"


def of(row: Any, aspect: str) -> dict[str, float]:
    return {r["answer"]: r["value"] for r in row["ratings"] if r["aspect"] == aspect}


def test_ratings_by_hand(rated: Path) -> None:
    rows = read_records(rated, "sample").rows
    # -1 + 0.9 / 2, 0.9, 0.9 / 2, 0.9, less a ten-thousandth a word.
    assert of(rows[0], "exact") == pytest.approx(
        {"responses/0": -0.5505, "responses/1": 0.8995, "responses/2": 0.4498,
         "responses/3": 0.8995}
    )  # fmt: skip
    assert of(rows[0], "Correctness") == {
        "responses/0": 2, "responses/1": 4, "responses/2": 4, "responses/3": 4,
    }  # fmt: skip
    assert of(rows[1], "Helpfulness") == {"responses/0": 0, "responses/1": 0}
    source = json.loads(rows[0]["source"])
    assert source["source"] == "mine"
    assert source["rated"]["reasons"][0] == "invents hat; 1 of 2 objects; 5 words"
    summary = read_json(rated.parent / "summary.json")
    assert (summary["prompts"], summary["skipped"]) == (2, 0)
    assert summary["means"]["exact"] == pytest.approx(
        (-0.5505 + 0.8995 + 0.4498 + 0.8995 - 1.0002 - 0.0001) / 6, abs=1e-4
    )


def test_verbosity_has_every_mark_by_default() -> None:
    # 1, 2, ..., 10 words: a fifth is below 3, two fifths below 5, ...
    points = length_points([" ".join(["w"] * count) for count in range(1, 11)])
    marks = Counter(sum(count >= point for point in points) for count in range(1, 11))
    assert points == [3, 5, 7, 9]
    assert marks == dict.fromkeys(range(5), 2)


def test_rating_again_replaces_its_own_and_keeps_others(samples: Path) -> None:
    folder = samples.parent
    row = {"id": "b", "prompt": "Q", "responses": ["A dog.", "A cat."], "ratings": [
        {"answer": "responses/1", "aspect": "exact", "value": 77},
        {"answer": "responses/1", "aspect": "taste", "value": 3},
    ]}  # fmt: skip
    write_jsonl(samples, [row])  # no image: found by its id
    options = ("--objects", folder / "objects.json", "--vocabulary", folder / "words.json")
    assert run("build", "rate", samples, *options, "--out", folder / "again",
               "--verbosity-words", "[1,2,3,4]") == 0  # fmt: skip
    (again,) = read_records(folder / "again" / "samples.parquet", "sample").rows
    assert of(again, "taste") == {"responses/1": 3}
    assert of(again, "exact")["responses/1"] == pytest.approx(-1.0002)
    assert of(again, "Verbosity") == {"responses/0": 2, "responses/1": 2}


def test_images_without_a_list_are_refused_or_listed(samples: Path, capsys: Any) -> None:
    folder = samples.parent
    write_json(folder / "objects.json", {"a": ["dog"]})
    options = ("--objects", folder / "objects.json", "--vocabulary", folder / "words.json")
    assert run("build", "rate", samples, *options, "--out", folder / "r") == 2
    assert "1 of 2 records can't be rated (the first: row-b" in capsys.readouterr().err
    more = ("--max-bad-fraction", "0.5")
    assert run("build", "rate", samples, *options, *more, "--out", folder / "r") == 0
    (skipped,) = read_jsonl(folder / "r" / "skipped.jsonl")
    assert (skipped["id"], skipped["reason"]) == ("row-b", "the image has no object list")
    assert run("build", "rate", samples, *options, "--out", folder / "r",
               "--verbosity-words", "[3,2,1,0]") == 2  # fmt: skip
    assert "in rising order" in capsys.readouterr().err


def test_the_first_of_the_best_is_kept(rated: Path, tmp_path: Path) -> None:
    assert run("build", "best", rated, "--out", tmp_path / "best") == 0
    rows = read_records(tmp_path / "best" / "conversations.parquet", "conversation").rows
    said = [text_of(row["messages"][-1]) for row in rows]
    # Responses 1 and 3 of the first are worth the same; "Nothing." beats an invented cat.
    assert said == ["A dog and a cat.", "Nothing."]
    assert text_of(rows[0]["messages"][0]) == "What is there?"
    assert rows[0]["images"][0].size == (8, 8)
    source = json.loads(rows[0]["source"])
    assert (source["response"], source["of"], source["aspects"]) == (1, 4, ["exact"])
    summary = read_json(tmp_path / "best" / "summary.json")
    assert summary["mean_of_best"] == pytest.approx((0.8995 - 0.0001) / 2, abs=1e-4)
    # The prompts have four and two responses; each prompt counts once.
    sums = [list(of(row, "exact").values()) for row in read_records(rated, "sample").rows]
    assert [len(of_prompt) for of_prompt in sums] == [4, 2]
    assert summary["mean_of_all"] == pytest.approx(fmean(map(fmean, sums)), abs=1e-4)


def test_a_minimum_and_other_aspects(rated: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("build", "best", rated, "--out", tmp_path / "m", "--minimum", "0.5") == 0
    (skipped,) = read_jsonl(tmp_path / "m" / "skipped.jsonl")
    assert skipped["reason"] == "its best response has -0.0001, less than 0.5"
    assert run("build", "best", rated, "--out", tmp_path / "n", "--minimum", "2") == 2
    told = capsys.readouterr().err
    assert re.search(r"Not one response is kept: its best response has .*, less than 2 \(", told)
    assert run("build", "best", rated, "--out", tmp_path / "v", "--aspects", "[Complexity]") == 0
    (one, _) = read_records(tmp_path / "v" / "conversations.parquet", "conversation").rows
    assert text_of(one["messages"][-1]) == "A dog and a hat."
    assert run("build", "best", rated, "--out", tmp_path / "w", "--aspects", "[beauty]") == 2
    assert "No response is rated on beauty. There is: Coherence" in capsys.readouterr().err


def test_samples_without_ratings_are_sent_to_build_rate(samples: Path, capsys: Any) -> None:
    assert run("build", "best", samples, "--out", samples.parent / "x") == 2
    assert "`veridical build rate` gives them" in capsys.readouterr().err


def sample(values: list[float], texts: list[str] | None = None, id: str = "x") -> RatedSample:
    names = tuple(texts or [f"text {number}" for number in range(len(values))])
    return RatedSample({"id": id}, names, tuple({"q": value} for value in values))


def test_the_papers_rule() -> None:
    """Chosen = the first best; rejected = one at least 2 below, drawn by seed."""
    four = [6.0, 9.0, 9.0, 7.0]
    seen = {choose_pairs(sample(four, id=str(i)), ["q"], "random", 2, 0)[0] for i in range(40)}
    assert seen == {(1, 0), (1, 3)}
    assert choose_pairs(sample([8.0, 9.0]), ["q"], "random", 2, 0) == []
    assert choose_pairs(sample(four), ["q"], "random", 2, 0) == choose_pairs(
        sample(four), ["q"], "random", 2, 0
    )


def test_extremes_and_all() -> None:
    four = [6.0, 9.0, 9.0, 7.0]
    assert choose_pairs(sample(four), ["q"], "extremes", 2, 0) == [(1, 0)]
    # Every two that differ, at any distance; never the two of equal worth.
    assert set(choose_pairs(sample(four), ["q"], "all", 0, 0)) == {
        (1, 0), (1, 3), (2, 0), (2, 3), (3, 0),
    }  # fmt: skip
    # The same words rated differently are not pairs.
    assert choose_pairs(sample([1.0, 5.0], ["A.", "A."]), ["q"], "all", 0, 0) == []


def test_pairs_are_written(rated: Path, tmp_path: Path, capsys: Any) -> None:
    # Sums of helpfulness, correctness, coherence: a: 1+2+4, 4+4+4, 2+4+4, 4+4+4; b: 0+0+4, 0+4+4.
    assert run("build", "pairs", rated, "--out", tmp_path / "p") == 0
    rows = read_records(tmp_path / "p" / "pairs.parquet", "preference").rows
    assert [text_of(row["chosen"]) for row in rows] == ["A dog and a cat.", "Nothing."]
    assert text_of(rows[0]["rejected"]) in ("A dog and a hat.", "A dog.")
    assert of(rows[1], "exact") == pytest.approx({"chosen": -0.0001, "rejected": -1.0002})
    everything = ("--rule", "all", "--margin", "0", "--aspects", "[exact]")
    assert run("build", "pairs", rated, "--out", tmp_path / "all", *everything) == 0
    ids = read_records(tmp_path / "all" / "pairs.parquet", "preference").rows["id"][:]
    assert ids == ["row-a/1-0", "row-a/1-2", "row-a/2-0", "row-a/3-0", "row-a/3-2", "row-b/1-0"]
    assert run("build", "pairs", rated, "--out", tmp_path / "no", "--margin", "20") == 2
    assert "Lower --margin" in capsys.readouterr().err


def test_objects_are_checked_before_the_records_are_read(
    samples: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the records were read")

    monkeypatch.setattr("veridical.builders.rate.read", fail)
    write_json(samples.with_name("objects.json"), {"a": ["gizmo"]})
    out = samples.with_name("rated")
    objects = samples.with_name("objects.json")
    assert run("build", "rate", samples, "--out", out, "--objects", objects) == 2
    assert "gizmo" in capsys.readouterr().err


def test_a_thought_in_a_response_is_not_rated(samples: Path) -> None:
    """The hat is in the thought: nothing is invented, and the answer has two words."""
    row = {"id": "row-a", "images": ["a.png"], "prompt": "What is there?",
           "responses": ["<think>A hat?</think>A dog.", "A cat."]}  # fmt: skip
    write_jsonl(samples, [row])
    out, words = samples.with_name("rated"), samples.with_name("words.json")
    objects = samples.with_name("objects.json")
    options = ("--objects", objects, "--vocabulary", words)
    assert run("build", "rate", samples, "--out", out, *options) == 0
    records = read_records(out / "samples.parquet", "sample")
    exact = [r["value"] for r in records.rows[0]["ratings"] if r["aspect"] == "exact"]
    assert exact[0] == pytest.approx(0.9 / 2 - 2 / 10_000)


def test_the_images_that_share_a_list_are_named_in_the_same_order(
    samples: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "veridical.builders.rate.match_image_ids", lambda names, _: seen.append(names)
    )
    run("build", "rate", samples, "--out", samples.with_name("rated"),
        "--objects", samples.with_name("objects.json"),
        "--vocabulary", samples.with_name("words.json"))  # fmt: skip
    assert seen == [sorted(seen[0])]


RATE = ("build", "rate", "samples.jsonl", "--objects", "objects.json", "--vocabulary", "words.json")
SHARED = {
    "rate": RATE,
    "rank": ("build", "rank", *RATE[2:], "--judge", "exact"),
    "pairs": ("build", "pairs", "rated/samples.parquet", "--rule", "all", "--margin", "0"),
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 70 samples, more than are worked through together, and their ratings."""
    folder = tmp_path_factory.mktemp("many")
    said = ["A dog and a hat.", "A dog.", "A cat."]
    Image.new("RGB", (8, 8)).save(folder / "dog.png")
    write_jsonl(
        folder / "samples.jsonl",
        [{"id": str(n), "images": ["dog.png"], "prompt": f"What is there in {n}?",
          "responses": said[: 1 + n % 3]} for n in range(70)],
    )  # fmt: skip
    write_json(folder / "objects.json", {"dog": ["dog"]})
    write_json(folder / "words.json", {"dog": [], "cat": [], "hat": []})
    assert run_in(folder, "rate", "rated") == 0
    return folder


def run_in(folder: Path, command: str, out: str, *more: str) -> int:
    words = [folder / word if "." in word else word for word in SHARED[command]]
    return run(*words, "--out", folder / out, *more)


def made(folder: Path) -> dict[str, bytes]:
    """Every file of a run but `run.json`, which says when it ran."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


@pytest.mark.parametrize("command", SHARED)
def test_in_shards_and_after_an_interruption_the_bytes_are_the_same(
    many: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run_in(many, command, f"{command}-whole") == 0
    expected = made(many / f"{command}-whole")
    assert len(expected) > 2
    assert run_in(many, command, f"{command}-shards", "--shard", "2/2") == 0
    assert "parts/00000064" in " ".join(made(many / f"{command}-shards"))
    assert run_in(many, command, f"{command}-shards", "--shard", "1/2") == 0
    assert made(many / f"{command}-shards") == expected

    # A shard that comes late leaves what is finished finished.
    record = (many / f"{command}-shards" / "run.json").read_bytes()
    for shard in ("1/3", "3/3"):
        assert run_in(many, command, f"{command}-shards", "--shard", shard) == 0
        assert f"is finished: nothing is left for shard {shard}" in capsys.readouterr().out
    assert (many / f"{command}-shards" / "run.json").read_bytes() == record
    assert made(many / f"{command}-shards") == expected

    # The second chunk is not made, as after a kill; then it alone is missing.
    chunks = []
    owner, name = (RowParts, "write") if command == "pairs" else (Parts, "write")
    write = getattr(owner, name)

    def killed(parts: object, start: int, *given: Any) -> None:
        chunks.append(start)
        if len(chunks) == 2:
            raise KeyboardInterrupt
        write(parts, start, *given)

    monkeypatch.setattr(owner, name, killed)
    assert run_in(many, command, f"{command}-killed") == 130
    assert run_in(many, command, f"{command}-killed") == 0
    assert chunks == [0, 64, 64]
    assert made(many / f"{command}-killed") == expected
