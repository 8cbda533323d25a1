"""Scores of a reward model: by hand, and from the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from veridical.cli.dispatch import main
from veridical.data.records import assistant_message, user_message, write_records
from veridical.eval._reward_scores import (
    BINS,
    reward_metrics,
    reward_sums,
)
from veridical.eval.benchmark import score_rows
from veridical.eval.reward import BENCHMARK, _names
from veridical.eval.scores import read_scores
from veridical.models.load import load_policy
from veridical.models.reward_model import RewardInputs, new_head, save_head
from veridical.runtime.files import read_json, read_jsonl


def rows(*pairs: tuple[float, int]) -> list[dict[str, Any]]:
    return [
        {"image_id": f"image-{i}", "margin": margin, "words": words, "groups": []}
        for i, (margin, words) in enumerate(pairs)
    ]


def value(name: str, given: list[dict[str, Any]]) -> float:
    found = score_rows(BENCHMARK, given)[name].value
    assert found is not None
    return found


def test_scores_by_hand() -> None:
    """Margins 2, -1, 0 with 3, -2, 0 words more: right are 1, 0 and a half."""
    given = rows((2.0, 3), (-1.0, -2), (0.0, 0))
    assert value("accuracy", given) == pytest.approx(0.5)
    assert value("margin", given) == pytest.approx(1 / 3)
    losses = [math.log(1 + math.exp(-m)) for m in (2.0, -1.0, 0.0)]
    assert value("log_loss", given) == pytest.approx(sum(losses) / 3)
    # The first prefers the longer answer and is right; the second the longer one and is wrong.
    assert value("longer_preferred", given) == 1.0
    assert value("longer_chosen", given) == 0.5


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["x/a.parquet", "y/b.jsonl"], ["a", "b"]),
        (["x/a.parquet", "y/a.jsonl", "b"], ["x/a", "y/a", "b"]),
        (["x/pairs/pairs.parquet", "y/pairs/pairs.parquet"], ["x/pairs/pairs", "y/pairs/pairs"]),
        (["x/a.parquet", "x/a.jsonl"], ["a.parquet", "a.jsonl"]),
    ],
)
def test_every_file_of_pairs_has_a_name_of_its_own(files: list[str], names: list[str]) -> None:
    data = [Path(file) for file in files]
    assert _names(data) == dict(zip(names, data, strict=True))


def test_calibration_by_hand() -> None:
    """Ten pairs of confidence sigmoid(1) = 0.731, seven of them right: 0.031 off."""
    given = rows(*[(1.0, 1)] * 7, *[(-1.0, 1)] * 3)
    assert value("calibration_error", given) == pytest.approx(0.731059 - 0.7, abs=1e-6)
    sure = rows((1e6, 1), (-1e6, 1))
    assert value("calibration_error", sure) == pytest.approx(0.5)
    assert BINS == 10


def test_length_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    margins, words = rng.normal(size=50), rng.integers(-9, 9, size=50)
    given = rows(*zip(margins.tolist(), words.tolist(), strict=True))
    expected = np.corrcoef(margins, words)[0, 1]
    assert value("length_correlation", given) == pytest.approx(expected)
    assert (
        score_rows(BENCHMARK, rows((1.0, 2), (0.5, 2), (0.2, 2)))["length_correlation"].value
        is None
    )


def test_groups_have_their_own_scores() -> None:
    given = rows((1.0, 1), (-1.0, 1))
    given[0]["groups"], given[1]["groups"] = ["kind=colour"], ["kind=count"]
    scores = score_rows(BENCHMARK, given)
    assert (scores["kind=colour/accuracy"].value, scores["kind=count/accuracy"].value) == (1.0, 0.0)
    assert {metric.name for metric in reward_metrics()} < set(scores)
    assert len(reward_sums(given).clusters) == 2


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with a head of noise, that reads facts."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    policy = load_policy("embedded")
    policy.model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    head = new_head(policy)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    save_head(head, RewardInputs("Is this what the image shows?", with_facts=True), folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs over pictures of their own, each with facts."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    colours = ("red", "blue", "green", "black")
    write_records(
        [
            {
                "id": f"row-{i}",
                "images": [Image.new("RGB", (48, 48), colour)],
                "prompt": [user_message("Describe the image.")],
                "chosen": [assistant_message(f"There is a {colour} cup.")],
                "rejected": [assistant_message("There is an orange dog at the top.")],
                "facts": [f"There is a {colour} cup.", "This is a park."],
                "source": json.dumps({"builder": "drawn", "kind": "cup" if i % 2 else "dog"}),
            }
            for i, colour in enumerate(colours)
        ],
        path,
        "preference",
    )
    return path


def run(*words: object) -> int:
    return main([str(word) for word in words])


def margins(folder: Path) -> list[float]:
    return [row["margin"] for row in read_jsonl(folder / "rewards.jsonl")]


def test_from_the_command_line(
    reward_folder: Path, pairs: Path, tmp_path: Path, capsys: Any
) -> None:
    common = ("eval", "reward", reward_folder, pairs, "--by", "[kind]", "--out")
    assert run(*common, tmp_path / "one") == 0
    assert "kind=cup/accuracy" in capsys.readouterr().out
    scores = read_scores(tmp_path / "one")
    assert scores["accuracy"]["n"] == 4 and scores["kind=dog/accuracy"]["n"] == 2
    details = list(read_jsonl(tmp_path / "one" / "rewards.jsonl"))
    assert all(row["margin"] == row["chosen"] - row["rejected"] for row in details)
    assert len({row["image_id"] for row in details}) == 4

    assert run(*common, tmp_path / "rows", "--share-prefix", "false", "--batch-size", 3) == 0
    assert margins(tmp_path / "rows") == pytest.approx(margins(tmp_path / "one"), abs=1e-4)
    assert run(*common, tmp_path / "none", "--facts", "none") == 0
    assert run(*common, tmp_path / "other", "--facts", "other") == 0
    assert run(*common, tmp_path / "gray", "--images", "gray") == 0
    kinds = {name: margins(tmp_path / name) for name in ("one", "none", "other", "gray")}
    for name, found in kinds.items():
        others = [other for key, other in kinds.items() if key != name]
        assert all(found != pytest.approx(other, abs=1e-4) for other in others)
    assert run("eval", "compare", tmp_path / "one", tmp_path / "none", "--out", tmp_path / "c") == 0
    told = {row["metric"]: row for row in read_json(tmp_path / "c/comparison.json")["differences"]}
    none, one = (read_scores(tmp_path / name)["margin"]["value"] for name in ("none", "one"))
    assert none is not None and one is not None
    change = none - one
    assert told["margin"]["value"] == pytest.approx(change)
    assert "facts differs" in capsys.readouterr().out
    assert run("report", tmp_path / "one", "--out", tmp_path / "page.html") == 0
    assert "Pairs ranked correctly" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_key_of_the_source_clusters(
    reward_folder: Path, pairs: Path, tmp_path: Path, capsys: Any
) -> None:
    common = ("eval", "reward", reward_folder, pairs, "--cluster")
    assert run(*common, "kind", "--out", tmp_path / "kind") == 0
    scores = read_scores(tmp_path / "kind")
    assert (scores["accuracy"]["n"], scores["accuracy"]["clusters"]) == (4, 2)
    assert run(*common, "image", "--out", tmp_path / "none") == 2
    assert "has no 'image'" in capsys.readouterr().err


def test_what_cannot_be_scored_is_said(
    reward_folder: Path, pairs: Path, tmp_path: Path, capsys: Any
) -> None:
    assert run("eval", "reward", pairs.parent, pairs, "--out", tmp_path / "a") == 2
    assert "holds no reward model" in capsys.readouterr().err
    assert run("eval", "reward", reward_folder, pairs, pairs, "--out", tmp_path / "b") == 2
    assert "names a file twice" in capsys.readouterr().err
    one = tmp_path / "one.parquet"
    write_records(
        [
            {
                "id": "a",
                "images": [Image.new("RGB", (48, 48), "red")],
                "prompt": [user_message("Describe the image.")],
                "chosen": [assistant_message("There is a red cup.")],
                "rejected": [assistant_message("There is a <image> dog.")],
            }
        ],
        one,
        "preference",
    )
    assert run("eval", "reward", reward_folder, one, "--out", tmp_path / "c") == 2
    assert "Not one pair of" in capsys.readouterr().err
    assert (
        run("eval", "reward", reward_folder, one, "--facts", "other", "--out", tmp_path / "d") == 2
    )
    assert "facts about different images" in capsys.readouterr().err
