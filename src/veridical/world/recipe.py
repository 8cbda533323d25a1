"""What the stages of training share: the recipe, fresh scenes, a step, a line of news."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

from veridical.runtime.randomness import key
from veridical.world.scenes import Distribution, Scene, sample_scene


@dataclass(frozen=True)
class Recipe:
    """Steps, sizes and rates of each stage. Our choices, calibrated to be decent but biased."""

    tower_steps: int = 700
    tower_batch: int = 64
    tower_rate: float = 1e-3
    projector_steps: int = 300
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


def training_scenes(
    distribution: Distribution, seed: int, stage: str, step: int, count: int
) -> list[Scene]:
    """Fresh scenes for one step; stages have their own seeds, apart from any a user names."""
    own = key(seed, "world", stage) % 2**31 + 2**31
    return [sample_scene(distribution, own, step * count + index) for index in range(count)]


def optimise(
    optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: list[torch.Tensor]
) -> None:
    """One step down the gradient of `loss`, clipped to length 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def say(line: str) -> None:
    """A line beside the progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
