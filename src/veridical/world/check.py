"""What the embedded policy is held to: decent but biased, measured exactly on fresh scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin

from veridical.runtime.progress import track
from veridical.runtime.randomness import generator
from veridical.world.drawing import draw_scene
from veridical.world.language import (
    DESCRIPTION_PROMPTS,
    SceneQuestion,
    existence_question,
    hallucinated_kinds,
    mentioned_kinds,
    share_explained_by_prior,
)
from veridical.world.scenes import KINDS, Distribution, Scene, sample_scenes

# Metric: lowest and highest value that the shipped policy may have.
BOUNDS: dict[str, tuple[float, float]] = {
    "counter/chair_i": (0.12, 0.30),
    "counter/recall": (0.75, 1.0),
    "counter/explained_by_prior": (0.60, 1.0),
    "prior/chair_i": (0.0, 0.06),
    "pope/accuracy": (0.88, 1.0),
    "pope/yes_rate": (0.40, 0.60),
    "pope_shuffled/accuracy": (0.46, 0.54),
}


def measure(folder: Path, count: int = 1000, seed: int = 101) -> dict[str, float]:
    """Greedy answers of the policy in `folder` about `count` fresh scenes, judged exactly.

    Weights are computed with in 32-bit floats. The keys are those of `BOUNDS` and a few more.
    """
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    ).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    metrics: dict[str, float] = {}
    distributions: tuple[Distribution, ...] = ("counter", "prior")
    for distribution in distributions:
        scenes = sample_scenes(distribution, count, seed)
        images = [draw_scene(scene) for scene in scenes]
        prompts = [DESCRIPTION_PROMPTS[0]] * count
        answers = answer(model, processor, images, prompts, max_new_tokens=80)
        for name, value in judge_scene_descriptions(answers, scenes).items():
            metrics[f"{distribution}/{name}"] = value
    scenes = sample_scenes("counter", count, seed)
    metrics |= measure_existence(model, processor, scenes, seed)
    return metrics


def judge_scene_descriptions(answers: Sequence[str], scenes: Sequence[Scene]) -> dict[str, float]:
    """CHAIR by mention, object recall, and what habit explains of the hallucinations."""
    pairs = list(zip(answers, scenes, strict=True))
    mentions = sum(len(mentioned_kinds(text)) for text in answers)
    false = sum(len(hallucinated_kinds(text, scene)) for text, scene in pairs)
    found = sum(len(set(mentioned_kinds(text)) & set(scene.kinds)) for text, scene in pairs)
    there = sum(len(scene.kinds) for scene in scenes)
    return {
        "chair_i": false / max(mentions, 1),
        "recall": found / max(there, 1),
        "explained_by_prior": share_explained_by_prior(pairs),
        "mean_words": float(np.mean([len(text.split()) for text in answers])),
    }


def measure_existence(
    model: torch.nn.Module, processor: ProcessorMixin, scenes: Sequence[Scene], seed: int
) -> dict[str, float]:
    """POPE's random split: as many present as absent kinds a scene; and with images shuffled."""
    asked = [
        (number, question)
        for number, scene in enumerate(scenes)
        for question in random_questions(scene, seed)
    ]
    images = [draw_scene(scenes[number]) for number, _ in asked]
    others = [draw_scene(scenes[(number + 1) % len(scenes)]) for number, _ in asked]
    texts = [question.text for _, question in asked]
    right = np.array([question.answer for _, question in asked])
    metrics = {}
    for name, shown in (("pope", images), ("pope_shuffled", others)):
        answers = np.array(answer(model, processor, shown, texts, max_new_tokens=2))
        metrics[f"{name}/accuracy"] = float((answers == right).mean())
        metrics[f"{name}/yes_rate"] = float((answers == "Yes.").mean())
    return metrics


def random_questions(scene: Scene, seed: int, count: int = 2) -> list[SceneQuestion]:
    """`count` present and `count` absent kinds, drawn at random."""
    rng = generator(seed, "existence", scene.id)
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    chosen = [
        pool[int(index)]
        for pool in (scene.kinds, absent)
        for index in rng.permutation(len(pool))[:count]
    ]
    return [existence_question(kind, scene) for kind in chosen]


def answer(
    model: torch.nn.Module,
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int = 100,
) -> list[str]:
    """The policy's greedy answers; padded on the left where prompts differ in length."""
    texts = [prompt_text(processor, prompt) for prompt in prompts]
    answers: list[str] = []
    for start in track(range(0, len(texts), batch_size), "answers"):
        part = slice(start, start + batch_size)
        inputs = processor(
            images=list(images[part]), text=texts[part], return_tensors="pt", padding=True
        )
        with torch.inference_mode():
            tokens = model.generate(  # type: ignore[operator]
                **inputs, max_new_tokens=max_new_tokens, do_sample=False
            )
        written = tokens[:, inputs["input_ids"].shape[1] :]
        answers += processor.batch_decode(written, skip_special_tokens=True)
    return answers


def prompt_text(processor: ProcessorMixin, text: str) -> str:
    """The prompt of one user turn with an image, ready for the answer."""
    content = [{"type": "image"}, {"type": "text", "text": text}]
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return str(rendered)


def out_of_bounds(metrics: dict[str, float]) -> list[str]:
    """One line for each metric outside its bounds; empty when the policy is fit to ship."""
    return [
        f"{name} is {metrics[name]:.3f}, not between {low} and {high}"
        for name, (low, high) in BOUNDS.items()
        if not low <= metrics[name] <= high
    ]
