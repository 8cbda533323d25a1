"""REINFORCE with a leave-one-out baseline, on rewards of several responses to each prompt."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.precision import unmixed
from veridical.objectives.reinforcement import (
    clipped_policy_losses,
    explained_variance,
    kl_terms,
    leave_one_out_advantages,
)
from veridical.runtime import processes
from veridical.train.loop.modes import learning
from veridical.train.loop.order import RankSampler
from veridical.train.options import Training
from veridical.train.prompts import PromptKind
from veridical.train.responses import Sampling
from veridical.train.rl.actors import build_actors
from veridical.train.rl.evaluation import Evaluations
from veridical.train.rl.experience import (
    Experience,
    Setting,
    count_scored,
    gather_experience,
    minibatches,
)
from veridical.train.rl.measures import measures_of, shown
from veridical.train.rl.run import Learner, chunks
from veridical.train.rl.start import begin, finish, refuse

METHOD = "REINFORCE with a leave-one-out baseline (RLOO)"
FIGURES = (
    "loss", "policy_loss", "clip_share", "moved", "inner_steps", "gradient_norm",
    "explained_variance",
)  # fmt: skip
"""What learning from a step's responses gives; null where nothing of a step was scored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLOO:
    """REINFORCE, leave one out.

    Attributes:
        samples: responses to each prompt, at least 2.
        inner_epochs: passes over a step's responses.
        minibatches: optimizer steps that a pass is divided into.
        clip: how far a response's probability ratio may leave 1 and still be pushed on; in the
            first pass, which is the only one by default, it is 1.
        kl_coefficient: weight of the penalty, per nat of a response's log-ratio.
    """

    samples: int = 4
    inner_epochs: int = 1
    minibatches: int = 1
    clip: float = 0.2
    kl_coefficient: float = 0.4

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UserError: names the option.
        """
        refuse("samples", self.samples, self.samples < 2, "a response needs a sibling: 2 or more")
        for name in ("inner_epochs", "minibatches"):
            refuse(name, getattr(self, name), getattr(self, name) < 1, "give 1 or more")
        refuse("clip", self.clip, self.clip <= 0, "it must be above 0")
        refuse(
            "kl_coefficient", self.kl_coefficient, self.kl_coefficient < 0, "it can't be negative"
        )


def train_rloo(
    model: str,
    data: Path,
    out: Path,
    kind: PromptKind = "prompt",
    standardize: bool = True,
    judging: Judging = Judging(),
    symbolic: Symbolic = Symbolic(),
    sampling: Sampling = Sampling(),
    rloo: RLOO = RLOO(),
    training: Training = Training(learning_rate=1e-5, held_out=0.0, select_by="reward"),
) -> None:
    """Align MODEL by RLOO: several responses to each prompt in DATA, each against its siblings.

    A response is one action (Ahmadian et al. 2024): its reward, less the penalty for what the
    policy has moved, is compared with the mean of its siblings', and there is no value model.

    Args:
        model: hub name, folder, adapter folder or `embedded`.
        data: prompts, Parquet or JSON Lines.
        out: folder for the run: `model/`, `log.jsonl`, `proofs.json`, `run.json`.
        kind: what DATA holds: `prompt`, `conversation` or `preference`; answers are not learned.
        standardize: shift and scale the judge's scores to mean 0 and deviation 1 over what DATA
            already holds (pairs), or the start's own responses.
        judging: who rewards.
        symbolic: what counts besides.
        sampling: how responses are made.
        rloo: how they are learned from.
        training: what every training command takes.
    """
    rloo.check()
    arguments = dict(locals())
    with begin("train rloo", arguments, kind, judging, sampling, training) as (run, start):
        actors = build_actors(start.policy, model, judging, training, False, True)
        setting = start.setting(actors, rloo.samples, standardize)
        proofs = start.prove(actors, setting)
        setting = start.see_from_cache(setting)
        prompts = setting.prompts
        groups = [(actors.policy_parameters(), training.learning_rate)]
        learner = Learner(actors, groups, training, out, len(prompts))
        kept = learner.resume(training)
        sampler = RankSampler(
            len(prompts), training.batch_size, training.seed, 0, processes.world_size()
        )
        log, began = learner.open_log(kept["step"], training), time.monotonic()
        looks = Evaluations(setting, start.held_out, training, learner, log, kept)
        for step in looks.steps():
            indexes = sampler.rows_of_step(step, training.accumulation)
            actors.policy.model.eval()
            experience = gather_experience(setting, step, indexes)
            measured = measures_of(experience)

            scored = count_scored(experience, step + 1, len(indexes), training.max_bad_fraction)
            learned: dict[str, Any] = dict.fromkeys(FIGURES)
            if scored:
                kl = kl_terms(experience.logps, experience.reference_logps, "k1").sum(-1)
                earned = experience.rewards - rloo.kl_coefficient * kl.to(experience.rewards)
                by_prompt = earned.view(-1, rloo.samples)
                advantages = leave_one_out_advantages(by_prompt).flatten()
                expected = by_prompt.flatten() - advantages
                learned["explained_variance"] = explained_variance(
                    expected, earned, torch.ones_like(earned, dtype=torch.bool), processes.total
                )

                learned |= learn(
                    setting,
                    experience,
                    advantages,
                    learner,
                    rloo,
                    len(indexes),
                    training.seed,
                    step,
                )
            rate = learner.scheduler.get_last_lr()[0]
            learner.scheduler.step()
            log.write(
                {
                    "step": step + 1, "split": "train",
                    "epoch": training.rows_seen(step + 1, len(prompts)) / len(prompts),
                    **measured, **learned,
                    "kl_coefficient": rloo.kl_coefficient, "learning_rate": rate,
                    "samples": shown(experience),
                }
            )  # fmt: skip
            looks.look(step + 1)
            learner.save(step + 1, looks.kept(), looks.best_step())
        log.close()
        setting.close()
        finish(
            run, actors, model, training, METHOD, proofs, start, log, began, looks.done,
            looks.take_best(),
        )  # fmt: skip


def learn(
    setting: Setting,
    experience: Experience,
    advantages: Tensor,
    learner: Learner,
    rloo: RLOO,
    prompts: int,
    seed: int,
    step: int,
) -> dict[str, Any]:
    """Passes over a step's responses; the loss is the mean over those of all processes."""
    sums = torch.zeros(3, dtype=torch.float64)
    lengths: list[float] = []
    for epoch in range(rloo.inner_epochs):
        for mine in minibatches(experience, prompts, rloo.minibatches, seed, step, epoch):
            own = torch.tensor(float(len(mine) * setting.k))
            responses = float(processes.total(own))
            if not responses:
                continue  # no prompt of it was scored; an optimizer would still move
            seen = torch.zeros(3, dtype=torch.float64)
            for chunk in chunks(mine, setting.batch_size):
                seen += _one_batch(setting, experience, advantages, rloo, chunk, responses)
            lengths.append(learner.step())
            sums += processes.total(seen)
    steps = max(1, len(lengths))
    loss, clipped, moved = (float(value) / steps for value in sums)
    return {
        "loss": loss, "policy_loss": loss, "clip_share": clipped, "moved": moved,
        "inner_steps": len(lengths), "gradient_norm": sum(lengths) / steps,
    }  # fmt: skip


def _one_batch(
    setting: Setting,
    experience: Experience,
    advantages: Tensor,
    rloo: RLOO,
    chunk: Sequence[int],
    responses: float,
) -> Tensor:
    """The gradient on a few prompts' responses, and the sums that are logged."""
    rows = experience.rows(chunk, setting.k)
    batch = setting.batch([experience.groups[i] for i in chunk])
    model = setting.actors.policy.model
    with learning(model, setting.model_dropout):
        now = setting.scores(model, batch).logps.sum(-1)
        old = experience.logps[rows].sum(-1)
        losses, clipped = clipped_policy_losses(now, old, advantages[rows].to(now), rloo.clip)
        loss = losses.sum() / responses
        with unmixed():
            loss.backward()
    moved = kl_terms(old, now.detach(), "k3").sum() / responses
    told = (loss, clipped.sum() / responses, moved)
    return torch.stack([value.detach().double().cpu() for value in told])
