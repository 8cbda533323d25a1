"""The first stages of training: what patches show, and the words for it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from veridical.runtime.progress import track
from veridical.runtime.randomness import generator
from veridical.world.drawing import render_array
from veridical.world.model import IMAGE, PATCHES, WIDTH
from veridical.world.packing import pixels
from veridical.world.recipe import Recipe, optimise, say, training_scenes
from veridical.world.scenes import COLOURS, GRID, KINDS, SETTINGS, Scene

_LABEL_SIZES = [len(KINDS) + 1, len(COLOURS) + 1, GRID * GRID, len(SETTINGS)]
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")


def train_tower(model: LlavaForConditionalGeneration, recipe: Recipe, seed: int) -> float:
    """Teach every patch its cell's kind, colour and place and the setting; then freeze the tower.

    Returns:
        The share of patches on objects whose kind is told right, over the last 50 steps.
    """
    heads = torch.nn.Linear(WIDTH, sum(_LABEL_SIZES))
    tower = model.model.vision_tower
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.tower_rate, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.tower_rate, total_steps=recipe.tower_steps, pct_start=0.1
    )
    right: list[float] = []
    for step in track(range(recipe.tower_steps), "vision tower"):
        scenes = training_scenes("uniform", seed, "tower", step, recipe.tower_batch)
        labels = torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes]))
        logits = heads(patch_features(model, scenes)).split(_LABEL_SIZES, dim=-1)
        losses = [
            functional.cross_entropy(part.flatten(0, 1), labels[..., number].flatten())
            for number, part in enumerate(logits)
        ]
        optimise(optimizer, torch.stack(losses).sum(), parameters)
        scheduler.step()
        there = labels[..., 0] > 0
        right.append(float((logits[0].argmax(-1) == labels[..., 0])[there].float().mean()))
    tower.requires_grad_(False)
    share = float(np.mean(right[-50:]))
    say(f"vision tower: {share:.3f} of the patches on objects tell the right kind")
    return share


def align_projector(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, recipe: Recipe, seed: int
) -> None:
    """Fit the projector so that a patch becomes the sum of the words for what it shows."""
    scenes = training_scenes("uniform", seed, "projector", 0, 512)
    with torch.no_grad():
        features = patch_features(model, scenes)
        words = word_sums(model, processor, scenes)
    projector = model.model.multi_modal_projector
    optimizer = torch.optim.Adam(projector.parameters(), lr=3e-3)
    rng = generator(seed, "projector")
    for _ in track(range(recipe.projector_steps), "projector"):
        rows = torch.from_numpy(rng.permutation(len(scenes))[:64])
        loss = functional.mse_loss(projector(features[rows]), words[rows])
        optimise(optimizer, loss, list(projector.parameters()))
    say(f"projector: squared error {loss.item():.4f}")


def patch_features(model: LlavaForConditionalGeneration, scenes: Iterable[Scene]) -> torch.Tensor:
    """The tower's features of each patch, (B, PATCHES, WIDTH)."""
    return tower_features(model, pixels(np.stack([render_array(scene) for scene in scenes])))


def patch_labels(scene: Scene) -> npt.NDArray[np.int64]:
    """(PATCHES, 4): kind (0: none), colour (0: none), cell and setting of each patch."""
    cells = np.zeros((GRID * GRID, 4), dtype=np.int64)
    cells[:, 2] = np.arange(GRID * GRID)
    cells[:, 3] = SETTINGS.index(scene.setting)
    for thing in scene.objects:
        cells[thing.cell, :2] = KINDS.index(thing.kind) + 1, COLOURS.index(thing.colour) + 1
    return cells[_cell_of_patch()]


def word_sums(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: Iterable[Scene]
) -> torch.Tensor:
    """4 x the kind + the colour + row + column + setting + the image token, (B, PATCHES, WIDTH).

    An empty patch has the word "nothing" as its kind: what a noun finds no match for then differs
    from what it finds in one direction, which is easily read.
    """
    embeddings: torch.Tensor = model.get_input_embeddings().weight.detach()

    def word(text: str) -> torch.Tensor:
        return embeddings[processor.tokenizer.convert_tokens_to_ids(f"▁{text}")]

    image = embeddings[processor.tokenizer.convert_tokens_to_ids(IMAGE)]
    kinds = torch.stack([4 * word(kind) for kind in ("nothing", *KINDS)])
    colours = torch.stack([torch.zeros_like(image), *(word(colour) for colour in COLOURS)])
    cells = torch.stack([word(row) + word(column) for row in _ROWS for column in _COLUMNS])
    settings = torch.stack([word(setting) for setting in SETTINGS])
    labels = torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes])).unbind(-1)
    return kinds[labels[0]] + colours[labels[1]] + cells[labels[2]] + settings[labels[3]] + image


def _cell_of_patch() -> npt.NDArray[np.int64]:
    side = round(PATCHES**0.5)
    row, column = np.divmod(np.arange(PATCHES), side)
    scale = side // GRID
    cell: npt.NDArray[np.int64] = (row // scale) * GRID + column // scale
    return cell


def tower_features(
    model: LlavaForConditionalGeneration, pixel_values: torch.Tensor
) -> torch.Tensor:
    """As `patch_features`, from pixels (B, 3, H, W)."""
    outputs = model.model.vision_tower(pixel_values, output_hidden_states=True)
    features: torch.Tensor = outputs.hidden_states[-1][:, 1:]
    return features
