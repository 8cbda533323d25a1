"""An image of usual size that the processor refuses is listed, and the evaluation goes on."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluating import eval_chair, eval_pope
from PIL import Image

from veridical.data.records import assistant_message, user_message, write_records
from veridical.eval import reward
from veridical.models import load
from veridical.models.policy import Policy
from veridical.models.reward_model import RewardInputs, RewardModel, new_head
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json
from veridical.runtime.options import Reading

USUAL, REFUSED = (64, 64), (100, 80)


class Refusing:
    """An image processor that takes no picture of one usual size."""

    def __init__(self, stock: Any) -> None:
        self.stock = stock

    def __call__(self, images: Any, *rest: Any, **named: Any) -> Any:
        rows = images if isinstance(images[0], list) else [images]
        if any(image.size == REFUSED for row in rows for image in row):
            raise ValueError("not this one")
        return self.stock(images, *rest, **named)

    def __getattr__(self, name: str) -> Any:
        if name == "stock" or name.startswith("__"):  # while it is being copied
            raise AttributeError(name)
        return getattr(self.stock, name)


@pytest.fixture
def folder(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images, of which b is refused, with lists of objects."""
    processor = copy.deepcopy(policy.processor)
    processor.image_processor = Refusing(processor.image_processor)
    picky = dataclasses.replace(policy, processor=processor)
    monkeypatch.setattr(load, "load_policy", lambda *_, **__: picky)
    judge = RewardModel(picky, new_head(picky), RewardInputs("Is this right?"))
    monkeypatch.setattr(reward, "load_reward_model", lambda *_: judge)
    (tmp_path / "images").mkdir()
    for name in "abcd":
        size = REFUSED if name == "b" else USUAL
        Image.new("RGB", size, (40, 90, 10)).save(tmp_path / "images" / f"{name}.png")
    objects = {"a": ["dog"], "b": ["cat"], "c": ["dog", "cat"], "d": ["dog"]}
    write_json(tmp_path / "objects.json", objects)
    return tmp_path


OPTIONS: dict[str, Any] = {"model": "a/model", "max_new_tokens": 2}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_chair_lists_the_refused_image(folder: Path, batch_size: int) -> None:
    out, options = folder / "out", {**OPTIONS, "batch_size": batch_size}
    options["images"] = folder / "images"
    with pytest.raises(UserError, match=r"1 of 4 images.*--max-bad-fraction 0.01 allows: b, .*not"):
        eval_chair(folder / "objects.json", out, **options)
    # Started again with more allowed, it keeps the answers that are there.
    scores = eval_chair(folder / "objects.json", out, **options, max_bad_fraction=0.25)
    assert scores["chair_s"].n == 3
    assert [row["image_id"] for row in read_jsonl(out / "answers.jsonl")] == ["a", "c", "d"]
    (skipped,) = read_jsonl(out / "skipped.jsonl")
    assert (skipped["id"], skipped["field"]) == ("b", "image")
    assert "not this one" in skipped["reason"]
    results = read_json(out / "run.json")["results"]
    assert (results["answers"], results["skipped"]) == (3, 1)


def test_the_last_share_lists_what_another_was_refused(folder: Path) -> None:
    options = {**OPTIONS, "images": folder / "images", "batch_size": 2, "max_bad_fraction": 0.25}
    for shard in ("1/2", "2/2"):  # b is the first share's
        eval_chair(folder / "objects.json", folder / "out", **options, shard=shard)
    assert [row["id"] for row in read_jsonl(folder / "out" / "skipped.jsonl")] == ["b"]
    assert len(read_jsonl(folder / "out" / "answers.jsonl")) == 3


@pytest.mark.parametrize("auc", [False, True])
def test_pope_lists_the_refused_image_or_the_questions_about_it(folder: Path, auc: bool) -> None:
    options = {**OPTIONS, "images": folder / "images", "batch_size": 3, "auc": auc}
    built, given = folder / "built", folder / "given"
    with pytest.raises(UserError, match=r"1 of 4 images.*--max-bad-fraction 0.01 allows"):
        eval_pope(built, objects=folder / "objects.json", **options)
    eval_pope(built, objects=folder / "objects.json", **options, max_bad_fraction=0.25)
    rows = read_jsonl(built / "answers.jsonl")
    assert {row["image_id"] for row in rows} == {"a", "d"}  # of c nothing is absent
    assert all(("margin" in row) == auc for row in rows)
    assert len(read_jsonl(built / "questions.jsonl")) == len(rows)
    skipped = {row["id"]: row["field"] for row in read_jsonl(built / "skipped.jsonl")}
    assert skipped == {"b": "image", "c": "objects"}

    asked = folder / "questions.jsonl"
    asked.write_text(
        "".join(
            f'{{"question_id": {n}, "image": "{name}.png", "text": "A dog?", "label": "{label}"}}\n'
            for n, (name, label) in enumerate([("a", "yes"), ("b", "no"), ("c", "no")])
        )
    )
    with pytest.raises(UserError, match=r"1 of 3 questions.*--max-bad-fraction 0.3 allows"):
        eval_pope(given, questions=[asked], **options, max_bad_fraction=0.3)
    eval_pope(given, questions=[asked], **options, max_bad_fraction=0.5)
    (row,) = read_jsonl(given / "skipped.jsonl")
    assert (row["id"], row["field"]) == ("1", "b.png")


def test_nothing_left_is_an_error_whatever_is_allowed(folder: Path) -> None:
    for name in "acd":
        (folder / "images" / f"{name}.png").unlink()
    with pytest.raises(UserError, match="Nothing is left: 1 image cannot be used: b"):
        eval_chair(
            folder / "objects.json", folder / "out", **OPTIONS,
            images=folder / "images", max_bad_fraction=1.0,
        )  # fmt: skip


@pytest.mark.parametrize("share_prefix", [False, True])
@pytest.mark.parametrize("refused", [0, 2])
def test_reward_lists_the_refused_pair(folder: Path, refused: int, share_prefix: bool) -> None:
    pairs = [
        {
            "id": f"row-{n}",
            "images": [Image.new("RGB", REFUSED if n == refused else USUAL, (40 * n, 90, 10))],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message("There is a red cup.")],
            "rejected": [assistant_message("There is a blue dog at the top.")],
        }
        for n in range(4)
    ]
    path, out = folder / "pairs.parquet", folder / "out"
    write_records(pairs, path, "preference")
    options = reward.RewardOptions(
        model=folder / "images", data=[path], batch_size=3, share_prefix=share_prefix
    )
    with pytest.raises(UserError, match=rf"1 of 4 pairs.*0.01 allows. row-{refused}: .*not this"):
        reward.eval_reward(options, out)
    allowed = replace(options, reading=Reading(max_bad_fraction=0.25))
    scores = reward.eval_reward(allowed, out)
    assert scores["accuracy"].n == 3
    scored = [row["id"] for row in read_jsonl(out / "rewards.jsonl")]
    assert scored == [f"row-{n}" for n in range(4) if n != refused]
    (skipped,) = read_jsonl(out / "skipped.jsonl")
    assert (skipped["id"], skipped["field"]) == (f"row-{refused}", "images")
