"""Training teaches, leaves the tower alone once it is frozen, and is the same every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from veridical.runtime.errors import UserError
from veridical.world.card import card_text
from veridical.world.check import BOUNDS
from veridical.world.model import HEADS, WIDTH, build_model, build_processor
from veridical.world.recipe import Recipe, training_scenes
from veridical.world.scenes import sample_scenes
from veridical.world.train import follow, link_like_to_like, train_world
from veridical.world.vision import patch_labels, word_sums

SHORT = replace(
    Recipe(),
    **{"tower_steps": 3, "tower_batch": 4, "projector_steps": 3, "question_limit": 2},
    **{"question_batch": 3, "uniform_steps": 2, "prior_steps": 2, "batch": 3},
)


def test_a_short_training_is_the_same_every_time() -> None:
    first, _, results = follow(SHORT, seed=5)
    second, _, _ = follow(SHORT, seed=5)
    other, _, _ = follow(SHORT, seed=6)
    weights = first.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in second.state_dict().items())
    assert not all(torch.equal(weights[name], value) for name, value in other.state_dict().items())
    assert 1 <= results["parameters"] <= 8
    card = card_text(5, vars(SHORT), results | {"minutes": 1.0}, dict.fromkeys(BOUNDS, 0.5), 101)
    assert "supervised" in card and "{" not in card


def test_training_scenes_are_none_that_a_user_can_name() -> None:
    first = training_scenes("prior", 0, "texts", 0, 4)
    second = training_scenes("prior", 0, "texts", 1, 4)
    assert not {scene.id for scene in first} & {scene.id for scene in second}
    assert all(int(scene.id.split("-")[1]) >= 2**31 for scene in first + second)


def test_patch_labels_and_word_sums() -> None:
    """Patch 0 lies in cell 0, patch 35 in cell 8; four patches to a cell."""
    scene = next(s for s in sample_scenes("uniform", 50, 0) if s.objects[0].cell == 0)
    labels = patch_labels(scene)
    assert labels[0, 0] > 0 and labels[0, 2] == 0 and labels[35, 2] == 8
    assert (labels[:, 0] > 0).sum() == 4 * len(scene.objects)
    processor = build_processor()
    model = build_model(processor)
    sums = word_sums(model, processor, [scene])
    kind = model.get_input_embeddings().weight[
        processor.tokenizer.convert_tokens_to_ids(f"▁{scene.kinds[0]}")
    ]
    alike = torch.cosine_similarity(sums[0], kind[None], dim=-1)
    assert alike[0] > 0.7 and alike[labels[:, 0] == 0].abs().max() < 0.5


def test_like_attends_to_like_in_two_heads() -> None:
    model = build_model(build_processor())
    link_like_to_like(model)
    attention = model.model.language_model.layers[0].self_attn
    half = 2 * WIDTH // HEADS
    assert torch.equal(attention.q_proj.weight[:half], attention.k_proj.weight[:half])
    assert not torch.equal(attention.q_proj.weight[half:], attention.k_proj.weight[half:])


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(UserError, match="not empty"):
        train_world(tmp_path)
