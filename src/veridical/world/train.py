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

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from veridical.runtime.files import write_text_atomic
from veridical.runtime.progress import track
from veridical.runtime.randomness import generator, key
from veridical.runtime.run_folders import require_new_folder
from veridical.world.card import card_text
from veridical.world.check import measure, out_of_bounds
from veridical.world.language import DESCRIPTION_PROMPTS, sample_questions
from veridical.world.model import (
    HEADS,
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
    PackedBatch,
    PackedRow,
    Packer,
    visible_patches,
)
from veridical.world.recipe import Recipe, optimise, say, training_scenes
from veridical.world.scenes import Distribution, Scene
from veridical.world.vision import align_projector, tower_features, train_tower

# Of the scenes on the card; none of the choices above were made on them.
MEASURED_SEED = 202


def train_world(out: Path, seed: int = 0) -> None:
    """Train the embedded policy and save it to `out`: weights, processor and model card.

    Args:
        out: a folder that does not exist yet or is empty.
        seed: of the weights and of every scene.

    Raises:
        UserError: `out` holds files already.
    """
    require_new_folder(out)
    out.mkdir(parents=True, exist_ok=True)  # not after an hour
    started = time.monotonic()
    recipe = Recipe()
    model, processor, results = follow(recipe, seed)
    results["minutes"] = (time.monotonic() - started) / 60
    save_policy(out, model, processor, card="")
    metrics = measure(out, seed=MEASURED_SEED)
    card = card_text(seed, asdict(recipe), results, metrics, MEASURED_SEED)
    write_text_atomic(out / "README.md", card)
    for line in out_of_bounds(metrics):
        say(f"unfit to ship: {line}")


def follow(
    recipe: Recipe, seed: int
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor, dict[str, float]]:
    """All stages in order: the trained model, its processor and what the stages reached."""
    torch.manual_seed(key(seed, "weights") % 2**63)
    processor = build_processor()
    model = build_model(processor)
    results: dict[str, float] = {"parameters": model.num_parameters() / 1e6}
    results["patch_accuracy"] = train_tower(model, recipe, seed)
    align_projector(model, processor, recipe, seed)
    link_like_to_like(model)
    optimizer = language_optimizer(model, recipe)
    accuracy, steps = train_questions(model, processor, optimizer, recipe, seed)
    results |= {"existence_accuracy": accuracy, "question_steps": steps}
    train_texts(model, processor, optimizer, recipe, seed, "uniform")
    train_texts(model, processor, optimizer, recipe, seed, "prior")
    return model, processor, results


def link_like_to_like(model: LlavaForConditionalGeneration) -> None:
    """Set the keys of two heads of the first layer to their queries; trained on freely."""
    attention = model.model.language_model.layers[0].self_attn
    rows = slice(0, 2 * (WIDTH // HEADS))
    with torch.no_grad():
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
        scenes = training_scenes("uniform", seed, "questions", step, recipe.question_batch)
        rows = [_question_row(packer, scene, recipe.questions_an_image, seed) for scene in scenes]
        batch = packer.batch(rows)
        loss, verdicts = text_loss(model, batch)
        _warm_up(optimizer, recipe, step)
        optimise(optimizer, loss, _parameters(optimizer))
        right.append(verdicts)
        if step % 25 == 24:
            say(f"questions: {np.mean(right[-20:]):.3f} of the verdicts right")
        if step >= 50 and np.mean(right[-20:]) > recipe.question_goal:
            break
    share = float(np.mean(right[-20:]))
    say(f"questions: {share:.3f} of the verdicts right after {step + 1} steps")
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
        scenes = training_scenes(distribution, seed, "texts", step, recipe.batch)
        rows = [_text_row(packer, scene, recipe, seed, last) for scene in scenes]
        loss, _ = text_loss(model, packer.batch(rows))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * (1.0 - 0.9 * step / steps if last else 1.0)
        optimise(optimizer, loss, _parameters(optimizer))
        losses.append(loss.item())
    mean = float(np.mean(losses[-20:]))
    say(f"{distribution} scenes: loss {mean:.3f}")
    return mean


def text_loss(
    model: LlavaForConditionalGeneration, batch: PackedBatch
) -> tuple[torch.Tensor, float]:
    """Mean loss of description tokens plus that of answer tokens; share of right verdicts."""
    with torch.no_grad():
        features = tower_features(model, batch.pixel_values)
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


def _question_row(packer: Packer, scene: Scene, count: int, seed: int) -> PackedRow:
    questions = sample_questions(scene, count, seed)
    return PackedRow(
        scene, [packer.question(question) for question in questions], visible_patches(scene, False)
    )


def _text_row(packer: Packer, scene: Scene, recipe: Recipe, seed: int, last: bool) -> PackedRow:
    rng = generator(seed, "row", scene.id)
    prompt = DESCRIPTION_PROMPTS[int(rng.integers(len(DESCRIPTION_PROMPTS)))]
    if rng.random() < 0.5:
        prompt = DESCRIPTION_PROMPTS[0]
    description = packer.description(scene, prompt)
    if last and rng.random() < recipe.masked_share:
        return PackedRow(scene, [description], visible_patches(scene, True))
    beside = _question_row(packer, scene, recipe.questions_beside, seed)
    return PackedRow(scene, [description, *beside.segments], beside.visible)


def _warm_up(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = recipe.question_rate * min(1.0, (step + 1) / 30)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value for group in optimizer.param_groups for value in group["params"]]
