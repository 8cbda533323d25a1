"""A loaded policy in place of a model's name: reused, recorded by name, known by its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import veridical
from veridical import (
    Asking,
    BDHSSettings,
    Judging,
    Policy,
    Sampling,
    Subject,
    Symbolic,
    Training,
    UserError,
)
from veridical.data.messages import assistant_message, user_message
from veridical.data.records import Kind, write_records
from veridical.data.steering import ATTRIBUTES
from veridical.models.cache_keys import model_fingerprint
from veridical.runtime.files import read_json, read_jsonl
from veridical.sampling import Decoding

TRAINING = Training(
    tuning="full", dtype="float32", device="cpu", max_steps=2, batch_size=2, accumulation=1,
    held_out=0.0, learning_rate=1e-3, prove_first=False, cache="none",
)  # fmt: skip
EDIT = BDHSSettings(similarity="edit")
SAMPLING = Sampling(max_new_tokens=6)
ANSWERS = ("There is a red cup.", "There is a blue dog on the left.")


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def loaded(saved: str, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A policy in memory, where nothing may be loaded any more."""
    return load_last(saved, monkeypatch)


def load_last(name: str, monkeypatch: pytest.MonkeyPatch) -> Policy:
    found = veridical.load_policy(name)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is loaded again")

    monkeypatch.setattr("veridical.models.load._load_model", refuse)
    return found


@pytest.fixture
def data(tmp_path: Path, pictures: list[Image.Image]) -> dict[str, Path]:
    """The same two rows as records of each kind, and the folder of their pictures."""
    (tmp_path / "images").mkdir()
    ratings = [
        {"answer": f"responses/{n}", "aspect": aspect, "value": float(4 - n)}
        for n in range(2)
        for aspect in ATTRIBUTES
    ]
    made: dict[Kind, list[dict[str, Any]]] = {
        "preference": [], "conversation": [], "prompt": [], "sample": []
    }  # fmt: skip
    for number, picture in enumerate(pictures[:2]):
        picture.save(tmp_path / "images" / f"{number}.png")
        asked, (good, bad) = [user_message("Describe the image.")], map(assistant_message, ANSWERS)
        common = {"id": f"row-{number}", "images": [picture]}
        made["preference"] += [{**common, "prompt": asked, "chosen": [good], "rejected": [bad]}]
        made["conversation"] += [{**common, "messages": [*asked, good]}]
        made["prompt"] += [{**common, "prompt": asked}]
        responses = {"responses": [[good], [bad]], "ratings": ratings}
        made["sample"] += [{**common, "prompt": asked, **responses}]
    for kind, rows in made.items():
        write_records(rows, tmp_path / f"{kind}.parquet", kind)
    files: dict[str, Path] = {kind: tmp_path / f"{kind}.parquet" for kind in made}
    return files | {"images": tmp_path / "images"}


TRAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "train_dpo": ("preference", {}),
    "train_sft": ("conversation", {}),
    "train_steerlm": ("sample", {}),
    "train_reward": ("preference", {}),
    "train_online": ("preference", {"pairs": "bdhs", "sampling": SAMPLING, "bdhs": EDIT}),
    "train_rloo": (
        "prompt",
        {
            "judging": Judging(judge="none"),
            "symbolic": Symbolic(length_penalty=5.0),
            "sampling": SAMPLING,
            "standardize": False,
        },
    ),
    "train_grpo": (
        "prompt",
        {
            "judging": Judging(judge="none"),
            "symbolic": Symbolic(length_penalty=5.0),
            "sampling": SAMPLING,
        },
    ),
    "train_ppo": (
        "prompt",
        {
            "judging": Judging(judge="none"),
            "symbolic": Symbolic(length_penalty=5.0),
            "sampling": SAMPLING,
        },
    ),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_training_takes_a_loaded_policy(
    name: str, loaded: Policy, saved: str, data: dict[str, Path], tmp_path: Path
) -> None:
    kind, options = TRAINERS[name]
    before = load_file(Path(saved) / "model.safetensors")
    train: Callable[..., None] = getattr(veridical, name)
    train(loaded, data[kind], tmp_path / "run", training=TRAINING, **options)
    record = read_json(tmp_path / "run" / "run.json")
    assert (record["status"], record["configuration"]["model"]) == ("finished", saved)
    parts = {f"{part} in memory" for part in ("weights", "processor", "tokenizer")}
    assert record["models"]["model"]["files"].keys() == parts
    written = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert any(not torch.equal(value, before[key]) for key, value in written.items())
    with pytest.raises(UserError, match="was trained in this process"):
        train(loaded, data[kind], tmp_path / "again", training=TRAINING, **options)


def test_a_loaded_policy_trains_as_its_name_does(
    saved: str, data: dict[str, Path], tmp_path: Path
) -> None:
    weights = []
    models: dict[str, str | Policy] = {"name": saved, "loaded": veridical.load_policy(saved)}
    for name, model in models.items():
        veridical.train_sft(model, data["conversation"], tmp_path / name, training=TRAINING)
        weights.append(load_file(tmp_path / name / "model" / "model.safetensors"))
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_a_reference_may_be_loaded_but_not_be_the_policy(
    loaded: Policy, saved: str, data: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="same loaded model"):
        veridical.train_dpo(
            loaded, data["preference"], tmp_path / "a", reference_model=loaded, training=TRAINING
        )


@pytest.mark.parametrize(
    ("builder", "options"),
    [
        ("build_sample", {"k": 2, "decoding": Decoding(max_new_tokens=120, temperature=0.7)}),
        ("build_bdhs", {"bdhs": EDIT, "max_new_tokens": 40}),
    ],
)
def test_builders_take_a_loaded_policy(
    builder: str,
    options: dict[str, Any],
    data: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = load_last("embedded", monkeypatch)
    build: Callable[..., None] = getattr(veridical, builder)
    build(loaded, data["conversation"], tmp_path / "run", **options)
    record = read_json(tmp_path / "run" / "run.json")
    assert (record["status"], record["configuration"]["model"]) == ("finished", "embedded")
    assert record["models"]["model"]["key"] == model_fingerprint(loaded).key


def test_evaluation_takes_a_loaded_policy_and_sees_when_it_changed(
    loaded: Policy, saved: str, data: dict[str, Path], tmp_path: Path
) -> None:
    objects = tmp_path / "objects.json"
    objects.write_text('{"0": ["cup"], "1": ["dog"]}', encoding="utf-8")
    subject, asking = Subject(loaded, images=data["images"]), Asking(max_new_tokens=4)

    def keys() -> list[str]:
        out = tmp_path / "scores"
        veridical.evaluate(["chair"], out, subject, objects, asking=asking)
        assert read_json(out / "chair" / "run.json")["configuration"]["model"] == saved
        return [row["key"] for row in read_jsonl(out / "chair" / "answers.jsonl")]

    first = keys()
    assert len(first) == 2 and keys() == first
    with torch.no_grad():
        loaded.core.lm_head.weight[0, 0] += 1  # the name stays, the model does not
    assert set(keys()).isdisjoint(first)


def test_a_question_is_asked_of_a_loaded_policy(loaded: Policy, data: dict[str, Path]) -> None:
    asked = [
        veridical.ask(loaded, data["images"] / "0.png", "Describe the image.", max_new_tokens=4)
        for _ in range(2)
    ]
    assert asked[0] == asked[1]


@pytest.mark.parametrize(
    "options", [{"dtype": "bfloat16"}, {"template": {"x": 1}}, {"four_bit": True}]
)
def test_options_that_a_loaded_policy_is_not_are_refused(
    loaded: Policy, options: dict[str, Any]
) -> None:
    assert veridical.load_policy(loaded, dtype="float32", device="cpu") is loaded
    with pytest.raises(UserError, match="is not what"):
        veridical.load_policy(loaded, **options)
