"""One PPO step taken apart: where its seconds go.

The step is the product's own (`gather_experience`, then `learn`); stopwatches are put around what
these call. Policy, reference and value model are adapters of one base; the reward is the length.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import (
    Figures,
    Settings,
    peak_bytes,
    run_part,
    start_peak,
    synchronize,
)
from shapes import Shape, build, image_tokens_of, missing, random_rows, shapes_of

from veridical.checks.prefix_sharing import sharing
from veridical.data.prompts import Prompt
from veridical.judges.judging import Case, Verdict
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.objectives.ppo import PPO
from veridical.sampling import Decoding
from veridical.train.options import Training
from veridical.train.prompts import TrainingPrompt, proof_group
from veridical.train.rl import experience as gathering
from veridical.train.rl import learning
from veridical.train.rl.actors import build_actors
from veridical.train.rl.experience import Setting, gather_experience
from veridical.train.rl.learner import Learner
from veridical.train.rl.learning import learn, lesson_of
from veridical.train.rl.rewarding import Rewarder

WATCHED: tuple[tuple[Any, str, str], ...] = (
    (gathering, "sample", "sample responses"),
    (gathering, "reward", "reward"),
    (gathering, "token_scores", "score tokens"),
    (gathering, "token_values", "values"),
    (learning, "token_values", "values again, to learn"),
    (torch.Tensor, "backward", "backward passes"),
    (Learner, "step", "optimizer"),
)
"""What is timed: where its name is looked up, its name, and what the table calls it. Scores are
taken of the policy and the reference while gathering, and of the policy again while learning."""


def measure_ppo(settings: Settings, figures: Figures) -> None:
    """A step at each shape, the second of two."""
    for shape in shapes_of(settings):
        reason = missing(shape)
        if reason:
            figures.note(reason)
            continue
        needs = 1.0 if settings.tiny else 12.0
        label = {"shape": shape.name, "image_tokens": image_tokens_of(settings)[0]}
        if needs > figures.left():
            figures.skip(label, needs, figures.left())
            continue
        parts: list[dict[str, Any]] = []
        whole = figures.attempt(
            {**label, "part": "whole step"}, needs, partial(step, settings, shape, parts)
        )
        for row in parts if whole else []:
            share = row["seconds"] / whole["seconds"] if whole else 0.0
            figures.add({**label, **row, "share": share})


def step(settings: Settings, shape: Shape, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Two steps; what the second took, and its parts by name."""
    tiny = settings.tiny
    prompts, new_tokens, rank = (2, 6, 4) if tiny else (16, 64, 128)
    start = build(shape, image_tokens_of(settings)[0], settings.device, settings.dtype)
    asked = prompts_of(shape, image_tokens_of(settings)[0], prompts)
    training = Training(
        learning_rate=1e-5, max_steps=2, batch_size=2 if tiny else 4, accumulation=1, held_out=0.0,
        evaluations=1, lora_rank=rank, lora_alpha=2 * rank, cache="none", dtype="bfloat16",
        device=settings.device,
        trainer={"gradient_checkpointing": True,
                 "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    )  # fmt: skip
    few = [proof_group(start, one.asked, ("w1 w2 w3", "w4 w5"), new_tokens) for one in asked[:2]]
    shares = sharing(start, few)
    ppo = PPO(inner_epochs=1, minibatches=2)
    actors = build_actors(start, shape.name, Judging(judge="none"), training, True, ppo.one_base)
    rewarder = Rewarder(by_length, None, Symbolic(), new_tokens)
    decoding = Decoding(new_tokens, 1.0, 0, prompts)
    setting = Setting(
        actors, asked, rewarder, decoding, ppo.samples, training.batch_size, shares.allowed
    )
    with tempfile.TemporaryDirectory() as folder:
        rates = [(actors.policy_parameters(), 1e-5), (actors.value_parameters(), 1e-5)]
        learner = Learner(actors, rates, training, Path(folder), len(asked))
        one_step(setting, learner, ppo, 0)
        start_peak(settings.device)
        clocks: dict[str, float] = defaultdict(float)
        with stopwatches(clocks):
            seconds, gathered, tokens = one_step(setting, learner, ppo, 1)
        peak = peak_bytes(settings.device)
    parts += [
        {"part": "gather experience", "seconds": gathered},
        {"part": "learn", "seconds": seconds - gathered},
        *({"part": f"of these: {name}", "seconds": value} for name, value in clocks.items()),
    ]
    return {"seconds": seconds, "responses": prompts, "response_tokens": tokens, "peak_bytes": peak}


def one_step(setting: Setting, learner: Learner, ppo: PPO, number: int) -> tuple[float, float, int]:
    """Gather and learn; returns seconds, those of gathering, and tokens sampled."""
    synchronize()
    began = time.perf_counter()
    indexes = list(range(len(setting.prompts)))
    setting.actors.policy.model.eval()
    found = gather_experience(setting, number, indexes)
    synchronize()
    gathered = time.perf_counter() - began
    lesson = lesson_of(ppo, found, ppo.kl_coefficient)
    learn(setting, lesson, learner, len(indexes), number)
    synchronize()
    return time.perf_counter() - began, gathered, int(found.sampled.mask.sum())


@contextmanager
def stopwatches(clocks: dict[str, float]) -> Iterator[None]:
    """Time every call of what is watched, as long as this lasts."""
    replaced = []
    for place, name, called in WATCHED:
        honest = getattr(place, name, None)
        if honest is None:
            continue  # the product calls it otherwise by now: its time stays in the whole
        replaced.append((place, name, honest))
        setattr(place, name, _timed(honest, called, clocks))
    try:
        yield
    finally:
        for place, name, honest in replaced:
            setattr(place, name, honest)


def _timed(honest: Callable[..., Any], called: str, clocks: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        synchronize()
        began = time.perf_counter()
        try:
            return honest(*arguments, **named)
        finally:
            synchronize()
            clocks[called] += time.perf_counter() - began

    return timed


def by_length(cases: Sequence[Case]) -> list[Verdict]:
    """A reward that costs nothing."""
    return [Verdict(tuple({"length": float(len(r))} for r in case.responses)) for case in cases]


def prompts_of(shape: Shape, image_tokens: int, count: int) -> list[TrainingPrompt]:
    """Random prompts about random pictures."""
    rows = random_rows(shape, image_tokens, count, 30, 1)
    return [
        TrainingPrompt(Prompt(row["id"], tuple(row["images"]), row["prompt"]), "", (), None, ())
        for row in rows
    ]


if __name__ == "__main__":
    run_part(measure_ppo)
