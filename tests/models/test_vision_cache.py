"""Features in the place of pixels: the same log-probs, the same gradients, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from veridical.data.records import assistant_message, user_message, write_records
from veridical.models.batching import collate
from veridical.models.logprobs import response_logps
from veridical.models.masked_prompts import encode_prompts
from veridical.models.policy import Policy
from veridical.models.prompt_batches import prompt_batch
from veridical.models.prompt_texts import render_prompt
from veridical.models.rendering import Group, render_group
from veridical.models.tuning import Tuning, prepare_training
from veridical.models.vision_cache import VisionCache, vision_weights
from veridical.runtime.cache import Cache
from veridical.runtime.errors import UserError
from veridical.train.dpo import train_dpo
from veridical.train.options import Training


def kind_of(policy: Policy) -> str:
    """The folder that a policy's features are kept in."""
    assert isinstance(policy.vision, VisionCache)
    return policy.vision.features_kind


def cached(policy: Policy, folder: Path, trains_projector: bool = False) -> Policy:
    return dataclasses.replace(
        policy, vision=VisionCache(policy, Cache(folder, 1e9), trains_projector)
    )


@pytest.fixture
def no_pixels(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Any:
    """After it is called, images may be neither opened nor encoded."""

    def forbid() -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            raise AssertionError("an image was looked at")

        monkeypatch.setattr("veridical.models.processing.load_image", refuse)
        monkeypatch.setattr(policy.core.model.vision_tower, "forward", refuse)

    return forbid


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("trains_projector", [False, True])
def test_log_probs_are_the_same(
    policy: Policy,
    groups: list[Group],
    tmp_path: Path,
    no_pixels: Any,
    share: bool,
    trains_projector: bool,
) -> None:
    stock = response_logps(policy.model, collate(policy, groups, share)).sums
    kept = cached(policy, tmp_path, trains_projector)
    first = response_logps(policy.model, collate(kept, groups, share)).sums
    assert torch.allclose(first, stock, rtol=0, atol=1e-10)
    no_pixels()
    again = cached(policy, tmp_path, trains_projector)
    second = response_logps(policy.model, collate(again, groups, share)).sums
    assert torch.equal(first, second)


def test_gradients_are_the_same_and_a_trained_projector_gets_them(
    policy: Policy, groups: list[Group], tmp_path: Path
) -> None:
    gradients = []
    for use in (False, True):
        own = Policy(copy.deepcopy(policy.model), policy.processor, "tiny")
        kept = cached(own, tmp_path, True) if use else own
        torch.manual_seed(0)
        trained = prepare_training(kept, Tuning("lora", 4, 8, train_projector=True))
        assert trained.vision is kept.vision
        response_logps(trained.model, collate(trained, groups, True)).sums.sum().backward()
        named = trained.model.named_parameters()
        gradients.append({n: p.grad for n, p in named if p.requires_grad})
    assert any("projector" in name and bool(g.abs().max() > 0) for name, g in gradients[1].items())
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=0, atol=1e-9), name


def test_text_rows_several_images_and_left_padding(
    policy: Policy, pictures: list[Image.Image], tmp_path: Path
) -> None:
    answer = [[assistant_message("Yes.")], [assistant_message("There is a red cup.")]]
    question = [user_message("Are they the same?", images=2)]
    text = [user_message("Is a cup red?", images=0)]
    groups = [
        render_group(policy, "two", pictures[:2], question, answer),
        render_group(policy, "none", [], text, answer),
        render_group(policy, "one", pictures[2:3], [user_message("What?")], answer),
    ]
    kept = cached(policy, tmp_path)
    for share in (True, False):
        want = response_logps(policy.model, collate(policy, groups, share)).sums
        found = response_logps(policy.model, collate(kept, groups, share)).sums
        assert torch.allclose(found, want, rtol=0, atol=1e-10)
    only_text = collate(kept, groups[1:2], True)
    assert response_logps(policy.model, only_text).sums.isfinite().all()
    prompts = [render_prompt(policy, question), render_prompt(policy, [user_message("What?")])]
    images = [pictures[:2], pictures[2:3]]
    left, stock = prompt_batch(kept, images, prompts), prompt_batch(policy, images, prompts)
    assert torch.equal(left.inputs["input_ids"], stock.inputs["input_ids"])
    assert torch.equal(left.inputs["attention_mask"], stock.inputs["attention_mask"])
    for one, other in zip(
        encode_prompts(kept, images, prompts), encode_prompts(policy, images, prompts), strict=True
    ):
        assert torch.allclose(one.embeddings, other.embeddings, rtol=0, atol=1e-12)


def test_an_image_is_encoded_once_for_all_its_rows(
    policy: Policy, groups: list[Group], tmp_path: Path
) -> None:
    kept = cached(policy, tmp_path)
    same = [dataclasses.replace(group, images=groups[0].images) for group in groups]
    collate(kept, same, False)
    assert len(Cache(tmp_path, 1e9).keys(kind_of(kept))) == 1


def test_what_changes_the_features_changes_the_key(policy: Policy, tmp_path: Path) -> None:
    kinds = [kind_of(cached(policy, tmp_path))]
    kinds.append(kind_of(cached(policy, tmp_path, True)))
    before = vision_weights(policy)
    with torch.no_grad():
        policy.core.get_output_embeddings().weight.add_(1)
    assert vision_weights(policy) == before  # the language model is not part of it
    with torch.no_grad():
        next(policy.core.model.vision_tower.parameters()).add_(1)
    kinds.append(kind_of(cached(policy, tmp_path)))
    policy.processor.image_processor.image_mean = (0.1, 0.5, 0.5)
    kinds.append(kind_of(cached(policy, tmp_path)))
    policy.model.float()
    kinds.append(kind_of(cached(policy, tmp_path)))
    assert len(set(kinds)) == 5


def test_a_damaged_entry_is_made_again(
    policy: Policy, groups: list[Group], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock = response_logps(policy.model, collate(policy, groups, True)).sums
    collate(cached(policy, tmp_path), groups, True)
    for entry in tmp_path.rglob("*.safetensors"):
        content = bytearray(entry.read_bytes())
        content[-1] ^= 1
        entry.write_bytes(bytes(content))
    found = response_logps(policy.model, collate(cached(policy, tmp_path), groups, True)).sums
    assert torch.allclose(found, stock, rtol=0, atol=1e-10)
    assert "checksum" in capsys.readouterr().out


def test_training_on_kept_features_gives_the_same_weights(
    policy: Policy, pictures: list[Image.Image], tmp_path: Path
) -> None:
    policy.model.float().save_pretrained(tmp_path / "policy")
    policy.processor.save_pretrained(tmp_path / "policy")
    rows = [
        {
            "id": str(i),
            "images": [pictures[i]],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message("There is a red cup.")],
            "rejected": [assistant_message("There is a blue dog on the left.")],
        }
        for i in range(4)
    ]
    data = tmp_path / "pairs.parquet"
    write_records(rows, data, "preference")
    training = Training(
        tuning="full", max_steps=2, batch_size=2, accumulation=1, held_out=0.0, evaluations=1,
        learning_rate=1e-3, cache=str(tmp_path / "cache"), dtype="float64",
    )  # fmt: skip
    models = []
    for kept in (False, True):
        out = tmp_path / str(kept)
        keeping = dataclasses.replace(training, vision_cache=kept)
        train_dpo(str(tmp_path / "policy"), data, out, training=keeping)
        models.append(load_file(out / "model" / "model.safetensors"))
    for name, weight in models[0].items():
        assert torch.allclose(weight, models[1][name], rtol=0, atol=1e-6), name
    trained = dataclasses.replace(training, vision_cache=True, train_vision=True)
    with pytest.raises(UserError, match="--train-vision"):
        train_dpo(str(tmp_path / "policy"), data, tmp_path / "refused", training=trained)


def test_no_folder_no_cache(policy: Policy) -> None:
    with pytest.raises(UserError, match="--cache none"):
        VisionCache(policy, Cache(None, 0))
