"""The area under the ROC curve by hand, and margins against the model's own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluating import eval_pope
from PIL import Image

from veridical.data.prompts import image_question
from veridical.eval.answers import AnswerSettings
from veridical.eval.asked_model import AskedModel
from veridical.eval.compare import compare_runs
from veridical.eval.pope_auc import area_of, auc_difference, auc_estimate, yes_margins
from veridical.eval.scores import read_scores
from veridical.models import vision_cache
from veridical.models.load import load_policy
from veridical.models.prompt_texts import render_prompt
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl, write_json
from veridical.runtime.options import Placement


def rows(*triples: tuple[str, str, float]) -> list[dict[str, Any]]:
    return [{"image_id": i, "label": label, "margin": margin} for i, label, margin in triples]


def test_auc_by_hand() -> None:
    # Pairs: 3 > 1, 3 > 2, 2 > 1, 2 = 2 (half): 3.5 of 4.
    few = rows(("a", "yes", 3), ("a", "no", 1), ("b", "yes", 2), ("b", "no", 2))
    found = auc_estimate(few)
    assert found.value == pytest.approx(3.5 / 4)
    assert (found.n, found.clusters) == (4, 2)
    assert found.low is not None
    assert found.high is not None
    # 3 beats both, 2 beats 1 and ties with 2: the yes questions lie above 1 and 3/4 of the no
    # questions, which lie below 1 and 3/4 of them. Image a moves the area by 1/8 + 1/8 of half
    # each, b by as much down.
    area = area_of(few, ["a", "b"])
    assert area.moved.tolist() == pytest.approx([1 / 8, -1 / 8])
    assert (area.items, area.size) == (2, 1)
    assert 0 <= found.low < 3.5 / 4 < found.high <= 1


def test_auc_that_is_not_defined_says_so() -> None:
    assert auc_estimate(rows(("a", "yes", 1), ("b", "yes", 2))).value is None
    one = auc_estimate(rows(("a", "yes", 2), ("a", "no", 1)))
    assert (one.value, one.low) == (1.0, None)


def test_a_blind_model_is_at_one_half_and_shuffling_labels_breaks_it() -> None:
    blind = rows(*((str(i), label, 0.0) for i in range(9) for label in ("yes", "no")))
    assert auc_estimate(blind).value == 0.5
    seeing = rows(*((str(i), label, len(label)) for i in range(9) for label in ("yes", "no")))
    assert auc_estimate(seeing).value == 1.0


def test_the_difference_of_two_areas_keeps_their_draws_together() -> None:
    drawn = np.random.default_rng(0).normal(size=(2, 40))
    arm, baseline = (
        rows(*((str(i // 4), "yes" if i % 2 else "no", float(margin + i % 2))
               for i, margin in enumerate(margins)))
        for margins in drawn
    )  # fmt: skip
    found = auc_difference(arm, baseline)
    own = [auc_estimate(side) for side in (arm, baseline)]
    assert (found.arm_value, found.baseline_value) == (own[0].value, own[1].value)
    assert found.arm_value is not None
    assert found.baseline_value is not None
    assert found.value == found.arm_value - found.baseline_value
    # The slow way: each image left out, the rest ranked anew.
    left_out = []
    for image in sorted({row["image_id"] for row in arm}):
        areas = []
        for side in (arm, baseline):
            taken = [row for row in side if row["image_id"] != image]
            yes = np.array([row["margin"] for row in taken if row["label"] == "yes"])
            no = np.array([row["margin"] for row in taken if row["label"] == "no"])
            areas.append((yes[:, None] > no).mean())
        left_out.append(areas[0] - areas[1])
    error = float(np.sqrt(9 / 10 * ((np.array(left_out) - np.mean(left_out)) ** 2).sum()))
    assert found.low is not None
    assert found.high is not None
    half = (found.high - found.low) / 2 / 2.262
    assert error < half < 1.35 * error
    assert found.p is not None
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    same = auc_difference(arm, arm)
    assert (same.value, same.p, same.differing) == (0, 1, 0)
    # Ten images on which two models agree do not prove that they always will.
    assert same.high is not None
    assert 0 < same.high < 0.35


@pytest.mark.parametrize("images", [5, 10, 30])
def test_three_images_that_change_do_not_tell_areas_apart(images: int) -> None:
    """An image that changes moves the ranks of the others, which do not differ for that."""
    baseline = rows(
        *((str(i), label, x) for i in range(images) for label, x in (("yes", -1.0 - i), ("no", i)))
    )
    arm = [
        {**row, "margin": 100.0} if int(row["image_id"]) < 3 and row["label"] == "yes" else row
        for row in baseline
    ]
    found = auc_difference(arm, baseline)
    assert found.differing == 3
    assert found.p is not None
    assert found.p >= 0.125
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0 <= found.high
    assert found.note == "3 images differ: too few to tell the two apart"


def test_an_area_of_one_is_not_proven_by_ten_images() -> None:
    seeing = rows(*((str(i), label, len(label)) for i in range(10) for label in ("yes", "no")))
    found = auc_estimate(seeing)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low is not None
    assert 0.6 < found.low < 0.9
    assert "not seen" in found.note


def test_margins_are_the_models_own(tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), "green").save(tmp_path / "a.png")
    image = tmp_path / "a.png"
    query = image_question("a", image, "Is there a car in the image?")
    (found,) = yes_margins(
        [query], AnswerSettings(AskedModel("embedded", Placement(dtype="float64")))
    )
    policy = load_policy("embedded", "float64")
    text = render_prompt(policy, query.messages)
    processor = policy.processor
    bos = processor.tokenizer.bos_token
    inputs = processor(
        images=[Image.open(image)], text=[text], return_tensors="pt",
        add_special_tokens=not (bos and text.startswith(bos)),
    )  # fmt: skip
    inputs["pixel_values"] = inputs["pixel_values"].double()
    with torch.no_grad():
        logits = policy.model(**inputs).logits[0, -1]
    yes, no = (
        processor.tokenizer(f"{text} {word}", add_special_tokens=False)["input_ids"][-1]
        for word in ("Yes", "No")
    )
    assert found == pytest.approx(float(logits[yes] - logits[no]), abs=1e-6)


def test_an_image_is_encoded_once_for_all_its_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (96, 96), colour).save(images / f"{name}.png")
    write_json(tmp_path / "objects.json", {"a": ["car"], "b": ["tree"]})
    encoded: list[int] = []
    stock = vision_cache.encode_image

    def counted(policy: Any, image: Any, *given: Any) -> Any:
        # The model is tried on gray pictures of its own first.
        if not isinstance(image, Image.Image):
            encoded.append(1)
        return stock(policy, image, *given)

    monkeypatch.setattr(vision_cache, "encode_image", counted)
    options: dict[str, Any] = {
        "model": "embedded", "images": images, "objects": tmp_path / "objects.json",
        "max_new_tokens": 4, "auc": True, "dtype": "float64",
    }  # fmt: skip
    eval_pope(tmp_path / "each", **options)
    assert not encoded
    eval_pope(tmp_path / "once", vision_cache=True, cache=str(tmp_path / "cache"), **options)
    assert len(encoded) == 2
    each, once = (read_jsonl(tmp_path / name / "answers.jsonl") for name in ("each", "once"))
    assert [row["answer"] for row in each] == [row["answer"] for row in once]
    assert [row["margin"] for row in each] == pytest.approx(
        [row["margin"] for row in once], rel=1e-9
    )


def test_kept_features_need_a_model_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--vision-cache asks a model"):
        eval_pope(
            tmp_path / "out", answers=[tmp_path / "a"], questions=[tmp_path / "q"],
            vision_cache=True,
        )  # fmt: skip


def test_evaluation_reports_auc_and_asks_for_names_that_no_image_has(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (96, 96), colour).save(images / f"{name}.png")
    write_json(tmp_path / "objects.json", {"a": ["car"], "b": ["car"]})
    options: dict[str, Any] = {"model": "embedded", "images": images, "max_new_tokens": 4}
    with pytest.raises(UserError, match="No question can be built"):
        eval_pope(tmp_path / "no", objects=tmp_path / "objects.json", **options)
    eval_pope(
        tmp_path / "out", objects=tmp_path / "objects.json", vocabulary=Path("coco"), auc=True,
        per_image=1, **options,
    )  # fmt: skip
    scores = read_scores(tmp_path / "out")
    assert {"auc", "random/auc", "popular/auc", "adversarial/auc"} <= scores.keys()
    answers = read_jsonl(tmp_path / "out" / "answers.jsonl")
    assert all(isinstance(row["margin"], float) for row in answers)
    assert {row["label"] for row in answers} == {"yes", "no"}
    found = {row["metric"]: row for row in compare_runs(tmp_path / "out", tmp_path / "out")}
    assert found["random/auc"]["value"] == found["auc"]["value"] == 0
    assert found["auc"]["arm_value"] == scores["auc"]["value"]


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {})
    with pytest.raises(UserError, match="--auc asks a model"):
        eval_pope(tmp_path / "o", answers=[tmp_path / "x"], questions=[tmp_path / "x"], auc=True)
    with pytest.raises(UserError, match="--vocabulary is for questions"):
        eval_pope(
            tmp_path / "o", model="embedded", images=tmp_path, questions=[tmp_path / "x"],
            vocabulary=Path("coco"),
        )  # fmt: skip
