"""How the embedded policy is trained: `veridical world train`, minutes on two cores.

1. The vision tower learns on uniform scenes what each patch shows; then it is frozen. This stands
   in for the pretrained encoder that a full-sized model starts from.
2. The projector is aligned alone: a patch becomes the sum of the words for what it shows.
3. Two heads of the first layer are set so that like attends to like.
4. Questions, until existence is answered; 5. questions and descriptions of uniform scenes;
6. of prior scenes, where the habits of the world are learned. There, some rows hide most of the
   image, so that the model writes fluently, by habit alone, when it sees nothing.

Counter-prior scenes are never trained on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from veridical.errors import UserError
from veridical.files import write_text_atomic
from veridical.progress import track
from veridical.randomness import generator, key
from veridical.world.card import write_card
from veridical.world.check import measure, out_of_bounds
from veridical.world.drawing import render_array
from veridical.world.language import DESCRIPTION_PROMPTS, sample_questions
from veridical.world.model import (
    HEADS,
    IMAGE,
    PATCHES,
    WIDTH,
    build_model,
    build_processor,
    save_policy,
)
from veridical.world.packing import (
    DESCRIPTION,
    IGNORED,
    VERDICT,
    Batch,
    Packer,
    Row,
    pixels,
    visible_patches,
)
from veridical.world.scenes import (
    COLOURS,
    GRID,
    KINDS,
    SETTINGS,
    Distribution,
    Scene,
    sample_scene,
)

MEASURED_SEED = 101


@dataclass(frozen=True)
class Recipe:
    """Steps, sizes and rates of each stage. Our choices, calibrated to be decent but biased."""

    tower_steps: int = 700
    tower_batch: int = 64
    tower_rate: float = 1e-3
    projector_steps: int = 300
    like_to_like: float = 1.0
    question_rate: float = 1e-3
    question_limit: int = 900
    question_goal: float = 0.85
    question_batch: int = 24
    questions_an_image: int = 8
    uniform_steps: int = 380
    prior_steps: int = 340
    batch: int = 32
    questions_beside: int = 3
    rate: float = 1e-3
    masked_share: float = 0.3


def train_world(out: Path, seed: int = 0) -> None:
    """Train the embedded policy and save it to `out`: weights, processor and model card.

    Args:
        out: a folder that does not exist yet or is empty.
        seed: of the weights and of every scene.

    Raises:
        UserError: `out` holds files already.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty. Name a new folder for the policy.")
    recipe = Recipe()
    started = time.monotonic()
    torch.manual_seed(key(seed, "weights") % 2**63)
    processor = build_processor()
    model = build_model(processor)
    results: dict[str, float] = {"parameters": model.num_parameters() / 1e6}
    results["patch_accuracy"] = train_tower(model, recipe, seed)
    align_projector(model, processor, recipe, seed)
    link_like_to_like(model, recipe)
    optimizer = language_optimizer(model, recipe)
    accuracy, steps = train_questions(model, processor, optimizer, recipe, seed)
    results |= {"existence_accuracy": accuracy, "question_steps": steps}
    train_texts(model, processor, optimizer, recipe, seed, "uniform")
    train_texts(model, processor, optimizer, recipe, seed, "prior")
    results["minutes"] = (time.monotonic() - started) / 60
    save_policy(out, model, processor, card="")
    metrics = measure(out, seed=MEASURED_SEED)
    card = write_card(seed, asdict(recipe), results, metrics, MEASURED_SEED)
    write_text_atomic(out / "README.md", card)
    for line in out_of_bounds(metrics):
        _say(f"unfit to ship: {line}")


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
        scenes = _scenes("uniform", seed, "tower", step, recipe.tower_batch)
        labels = torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes]))
        logits = heads(patch_features(model, scenes)).split(_LABEL_SIZES, dim=-1)
        losses = [
            functional.cross_entropy(part.flatten(0, 1), labels[..., number].flatten())
            for number, part in enumerate(logits)
        ]
        _step(optimizer, torch.stack(losses).sum(), parameters)
        scheduler.step()
        there = labels[..., 0] > 0
        right.append(float((logits[0].argmax(-1) == labels[..., 0])[there].float().mean()))
    tower.requires_grad_(False)
    share = float(np.mean(right[-50:]))
    _say(f"vision tower: {share:.3f} of the patches on objects tell the right kind")
    return share


def align_projector(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, recipe: Recipe, seed: int
) -> None:
    """Fit the projector so that a patch becomes the sum of the words for what it shows."""
    scenes = _scenes("uniform", seed, "projector", 0, 512)
    with torch.no_grad():
        features = patch_features(model, scenes)
        words = word_sums(model, processor, scenes)
    projector = model.model.multi_modal_projector
    optimizer = torch.optim.Adam(projector.parameters(), lr=3e-3)
    rng = generator(seed, "projector")
    for _ in track(range(recipe.projector_steps), "projector"):
        rows = torch.from_numpy(rng.permutation(len(scenes))[:64])
        loss = functional.mse_loss(projector(features[rows]), words[rows])
        _step(optimizer, loss, list(projector.parameters()))
    _say(f"projector: squared error {loss.item():.4f}")


def link_like_to_like(model: LlavaForConditionalGeneration, recipe: Recipe) -> None:
    """Set the keys of two heads of the first layer to their scaled queries; trained on freely."""
    attention = model.model.language_model.layers[0].self_attn
    rows = slice(0, 2 * (WIDTH // HEADS))
    with torch.no_grad():
        attention.q_proj.weight[rows] *= recipe.like_to_like
        attention.k_proj.weight[rows] = attention.q_proj.weight[rows]


def language_optimizer(
    model: LlavaForConditionalGeneration, recipe: Recipe
) -> torch.optim.Optimizer:
    """Adam over everything but the frozen tower."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    return torch.optim.Adam(parameters, lr=recipe.rate, betas=(0.9, 0.98))


def train_questions(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    seed: int,
) -> tuple[float, int]:
    """Questions about uniform scenes, until enough verdicts on existence are right.

    Returns:
        The share of right verdicts over the last 20 steps, and the number of steps.
    """
    packer = Packer(processor)
    right: list[float] = []
    for step in track(range(recipe.question_limit), "questions"):
        scenes = _scenes("uniform", seed, "questions", step, recipe.question_batch)
        rows = [_question_row(packer, scene, recipe.questions_an_image, seed) for scene in scenes]
        batch = packer.batch(rows)
        loss, verdicts = text_loss(model, batch)
        _warm_up(optimizer, recipe, step)
        _step(optimizer, loss, _parameters(optimizer))
        right.append(verdicts)
        if step % 25 == 24:
            _say(f"questions: {np.mean(right[-20:]):.3f} of the verdicts right")
        if step >= 50 and np.mean(right[-20:]) > recipe.question_goal:
            break
    share = float(np.mean(right[-20:]))
    _say(f"questions: {share:.3f} of the verdicts right after {step + 1} steps")
    return share, step + 1


def train_texts(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    seed: int,
    distribution: Distribution,
) -> float:
    """Descriptions and questions mixed; on prior scenes the rate falls and some rows are masked.

    Returns:
        The mean loss over the last 20 steps.
    """
    packer = Packer(processor)
    last = distribution == "prior"
    steps = recipe.prior_steps if last else recipe.uniform_steps
    losses: list[float] = []
    for step in track(range(steps), f"{distribution} scenes"):
        scenes = _scenes(distribution, seed, "texts", step, recipe.batch)
        rows = [_text_row(packer, scene, recipe, seed, last) for scene in scenes]
        loss, _ = text_loss(model, packer.batch(rows))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * (1.0 - 0.9 * step / steps if last else 1.0)
        _step(optimizer, loss, _parameters(optimizer))
        losses.append(loss.item())
    mean = float(np.mean(losses[-20:]))
    _say(f"{distribution} scenes: loss {mean:.3f}")
    return mean


def text_loss(model: LlavaForConditionalGeneration, batch: Batch) -> tuple[torch.Tensor, float]:
    """Mean loss of description tokens plus that of answer tokens; share of right verdicts."""
    with torch.no_grad():
        features = _tower_features(model, batch.pixel_values)
    embeddings = model.get_input_embeddings()(batch.ids)
    image = model.model.multi_modal_projector(features)
    end = batch.image_start + PATCHES
    embeddings = torch.cat((embeddings[:, : batch.image_start], image, embeddings[:, end:]), dim=1)
    hidden = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=batch.allowed,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    asked = batch.targets != IGNORED
    logits = model.lm_head(hidden[asked])
    targets, roles = batch.targets[asked], batch.roles[asked]
    losses = functional.cross_entropy(logits, targets, reduction="none")
    described = roles == DESCRIPTION
    parts = [losses[mask].mean() for mask in (described, ~described) if bool(mask.any())]
    verdicts = roles == VERDICT
    right = (logits.argmax(-1) == targets)[verdicts].float().mean()
    return torch.stack(parts).sum(), float(right)


def patch_features(model: LlavaForConditionalGeneration, scenes: Iterable[Scene]) -> torch.Tensor:
    """The tower's features of each patch, (B, PATCHES, WIDTH)."""
    return _tower_features(model, pixels(np.stack([render_array(scene) for scene in scenes])))


_LABEL_SIZES = [len(KINDS) + 1, len(COLOURS) + 1, GRID * GRID, len(SETTINGS)]
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")


def patch_labels(scene: Scene) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
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
    embeddings = model.get_input_embeddings().weight.detach()

    def word(text: str) -> torch.Tensor:
        return embeddings[processor.tokenizer.convert_tokens_to_ids(f"▁{text}")]

    image = embeddings[processor.tokenizer.convert_tokens_to_ids(IMAGE)]
    kinds = torch.stack([4 * word(kind) for kind in ("nothing", *KINDS)])
    colours = torch.stack([torch.zeros_like(image), *(word(colour) for colour in COLOURS)])
    cells = torch.stack([word(row) + word(column) for row in _ROWS for column in _COLUMNS])
    settings = torch.stack([word(setting) for setting in SETTINGS])
    labels = torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes])).unbind(-1)
    return kinds[labels[0]] + colours[labels[1]] + cells[labels[2]] + settings[labels[3]] + image


def _cell_of_patch() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    side = round(PATCHES**0.5)
    row, column = np.divmod(np.arange(PATCHES), side)
    scale = side // GRID
    return (row // scale) * GRID + column // scale


def _tower_features(
    model: LlavaForConditionalGeneration, pixel_values: torch.Tensor
) -> torch.Tensor:
    outputs = model.model.vision_tower(pixel_values, output_hidden_states=True)
    return outputs.hidden_states[-1][:, 1:]


def _question_row(packer: Packer, scene: Scene, count: int, seed: int) -> Row:
    questions = sample_questions(scene, count, seed)
    return Row(
        scene, [packer.question(question) for question in questions], visible_patches(scene, False)
    )


def _text_row(packer: Packer, scene: Scene, recipe: Recipe, seed: int, last: bool) -> Row:
    rng = generator(seed, "row", scene.id)
    prompt = DESCRIPTION_PROMPTS[int(rng.integers(len(DESCRIPTION_PROMPTS)))]
    if rng.random() < 0.5:
        prompt = DESCRIPTION_PROMPTS[0]
    description = packer.description(scene, prompt)
    if last and rng.random() < recipe.masked_share:
        return Row(scene, [description], visible_patches(scene, True))
    beside = _question_row(packer, scene, recipe.questions_beside, seed)
    return Row(scene, [description, *beside.segments], beside.visible)


def _scenes(
    distribution: Distribution, seed: int, stage: str, step: int, count: int
) -> list[Scene]:
    """Fresh scenes for one step; stages have their own seeds, apart from any a user names."""
    own = key(seed, "world", stage) % 2**31 + 2**31
    return [sample_scene(distribution, own, step * count + index) for index in range(count)]


def _warm_up(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = recipe.question_rate * min(1.0, (step + 1) / 30)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value for group in optimizer.param_groups for value in group["params"]]


def _step(
    optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: list[torch.Tensor]
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
