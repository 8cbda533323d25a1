"""Proximal policy optimization on rewards of fresh responses."""

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
from veridical.models.token_scores import token_values
from veridical.objectives.reinforcement import (
    KLEstimator,
    clipped_policy_losses,
    clipped_value_losses,
    explained_variance,
    generalized_advantages,
    kl_terms,
    next_kl_coefficient,
    token_rewards,
    whitened,
)
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.train.loop.modes import learning
from veridical.train.loop.order import RankSampler
from veridical.train.options import Training
from veridical.train.prompts import PromptKind
from veridical.train.responses import Sampling
from veridical.train.rl.actors import as_critic, build_actors
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

METHOD = "proximal policy optimization (PPO)"
FIGURES = (
    "loss", "policy_loss", "value_loss", "clip_share", "value_clip_share", "moved", "inner_steps",
    "stopped", "gradient_norm", "explained_variance",
)  # fmt: skip
"""What learning from a step's responses gives; null where nothing of a step was scored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO:
    """Proximal policy optimization.

    Attributes:
        samples: responses to each prompt.
        inner_epochs: passes over a step's responses.
        minibatches: optimizer steps that a pass is divided into.
        clip: how far a token's probability ratio may leave 1 and still be pushed on.
        value_clip: how far a value may leave what it was.
        value_weight: of the value loss.
        value_learning_rate: of the value model; the policy's if not set.
        gamma: discount of what comes a token later.
        lam: of generalized advantage estimation.
        kl_coefficient: weight of the penalty, per nat.
        kl_estimator: `k1` (log ratio; may be negative) or `k3` (never negative, less noise).
        kl_target: nats a response that the coefficient is adapted to keep; fixed if not set.
        kl_horizon: responses after which an adaptation has worked itself out.
        stop_kl: nats a token that the policy may move within a step; beyond it the step ends. 0
            never ends one.
        one_base: let policy, reference, value and reward model be adapters of one base, where
            they are trained as such; false gives each a base of its own.
    """

    samples: int = 1
    inner_epochs: int = 2
    minibatches: int = 2
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    value_learning_rate: float | None = None
    gamma: float = 1.0
    lam: float = 1.0
    kl_coefficient: float = 0.1
    kl_estimator: KLEstimator = "k1"
    kl_target: float | None = None
    kl_horizon: int = 10_000
    stop_kl: float = 0.0
    one_base: bool = True

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UserError: names the option.
        """
        for name in ("samples", "inner_epochs", "minibatches", "kl_horizon"):
            refuse(name, getattr(self, name), getattr(self, name) < 1, "give 1 or more")
        for name in ("clip", "value_clip"):
            refuse(name, getattr(self, name), getattr(self, name) <= 0, "it must be above 0")
        for name in ("gamma", "lam"):
            value = getattr(self, name)
            refuse(name, value, not 0 <= value <= 1, "give a number from 0 to 1")
        for name in ("value_weight", "kl_coefficient", "stop_kl"):
            refuse(name, getattr(self, name), getattr(self, name) < 0, "it can't be negative")
        if self.kl_target is not None and self.kl_target <= 0:
            raise UserError(f"--kl-target is {self.kl_target:g}; it must be above 0.")
        if self.kl_target is not None and not self.kl_coefficient:
            raise UserError(
                "--kl-target adapts --kl-coefficient by factors, and 0 stays 0. Give it a start "
                "above 0, such as 0.1."
            )


def train_ppo(
    model: str,
    data: Path,
    out: Path,
    kind: PromptKind = "prompt",
    standardize: bool = False,
    judging: Judging = Judging(),
    symbolic: Symbolic = Symbolic(),
    sampling: Sampling = Sampling(),
    ppo: PPO = PPO(),
    training: Training = Training(learning_rate=1e-5, held_out=0.0, select_by="reward"),
) -> None:
    """Align MODEL by PPO: answer the prompts in DATA, be rewarded, and learn from it.

    A step samples responses to `batch-size` times `accumulation` prompts (and processes), has them
    rewarded at their last token, takes off what the policy has moved away from its start, and
    learns with clipped losses over the responses' tokens alone. A value model, which begins as the
    reward model where there is one, says what was expected. `log.jsonl` has reward, KL, entropy,
    length and a few responses of every step; with --objects truth is logged beside the reward.

    Args:
        model: hub name, folder, adapter folder or `embedded`.
        data: prompts, Parquet or JSON Lines.
        out: folder for the run: `model/`, `log.jsonl`, `proofs.json`, `run.json`.
        kind: what DATA holds: `prompt`, `conversation` or `preference`; answers are not read.
        standardize: shift and scale the judge's scores to mean 0 and deviation 1 over what DATA
            already holds, or the start's own responses.
        judging: who rewards.
        symbolic: what counts besides.
        sampling: how responses are made.
        ppo: how they are learned from.
        training: what every training command takes.
    """
    ppo.check()
    arguments = dict(locals())
    with begin("train ppo", arguments, kind, judging, sampling, training) as (run, start):
        actors = build_actors(start.policy, model, judging, training, True, ppo.one_base)
        setting = start.setting(actors, ppo.samples, standardize)
        proofs = start.prove(actors, setting)
        setting = start.see_from_cache(setting)
        prompts = setting.prompts
        value_rate = ppo.value_learning_rate or training.learning_rate
        groups = [
            (actors.policy_parameters(), training.learning_rate),
            (actors.value_parameters(), value_rate),
        ]
        learner = Learner(actors, groups, training, out, len(prompts))
        kept = learner.resume(training)
        coefficient = kept.get("kl_coefficient", ppo.kl_coefficient)
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
                kl = kl_terms(experience.logps, experience.reference_logps, ppo.kl_estimator)
                rewards = token_rewards(experience.rewards, kl, experience.mask, coefficient)
                advantages = generalized_advantages(
                    rewards, experience.values, experience.mask, ppo.gamma, ppo.lam
                )
                returns = advantages + experience.values
                learned["explained_variance"] = explained_variance(
                    experience.values, returns, experience.mask, processes.total
                )
                advantages = whitened(advantages, experience.mask, processes.total)

                learned |= learn(
                    setting, experience, advantages, returns, learner, ppo, len(indexes),
                    training.seed, step,
                )  # fmt: skip
            rate = learner.scheduler.get_last_lr()[0]
            learner.scheduler.step()
            log.write(
                {
                    "step": step + 1, "split": "train",
                    "epoch": training.rows_seen(step + 1, len(prompts)) / len(prompts),
                    **measured, **learned,
                    "kl_coefficient": coefficient, "learning_rate": rate,
                    "samples": shown(experience),
                }
            )  # fmt: skip
            if ppo.kl_target is not None and scored:
                responses = scored * ppo.samples
                moved = measured[f"kl_{ppo.kl_estimator}"]
                coefficient = next_kl_coefficient(
                    coefficient, moved, ppo.kl_target, responses, ppo.kl_horizon
                )
            looks.look(step + 1)
            kept = {"kl_coefficient": coefficient} | looks.kept()
            learner.save(step + 1, kept, looks.best_step())
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
    returns: Tensor,
    learner: Learner,
    ppo: PPO,
    prompts: int,
    seed: int,
    step: int,
) -> dict[str, Any]:
    """Some passes over a step's responses, in minibatches; what the losses were.

    Losses are sums over tokens, divided by the tokens that all processes have in the minibatch, so
    that neither padding, nor the batch size, nor the number of processes changes them.
    """
    sums = torch.zeros(6, dtype=torch.float64)
    lengths: list[float] = []
    for epoch in range(ppo.inner_epochs):
        for mine in minibatches(experience, prompts, ppo.minibatches, seed, step, epoch):
            own = experience.mask[experience.rows(mine, setting.k)].sum().double()
            tokens = float(processes.total(own))
            if not tokens:
                continue  # no prompt of it was scored; an optimizer would still move
            seen = torch.zeros(6, dtype=torch.float64)
            for chunk in chunks(mine, setting.batch_size):
                seen += _one_batch(setting, experience, advantages, returns, ppo, chunk, tokens)
            lengths.append(learner.step())
            seen = processes.total(seen)
            sums += seen
            if ppo.stop_kl and float(seen[3]) / tokens > ppo.stop_kl:
                return _told(sums, lengths, True)
    return _told(sums, lengths, False)


def _one_batch(
    setting: Setting,
    experience: Experience,
    advantages: Tensor,
    returns: Tensor,
    ppo: PPO,
    chunk: Sequence[int],
    tokens: float,
) -> Tensor:
    """Gradients of both losses on a few prompts' responses, and the sums that are logged."""
    actors = setting.actors
    rows = experience.rows(chunk, setting.k)
    batch = setting.batch([experience.groups[i] for i in chunk])
    with learning(actors.policy.model, setting.model_dropout):
        now = setting.scores(actors.policy.model, batch)
        width, mask = now.mask.shape[1], now.mask
        old = experience.logps[rows, :width]
        losses, clipped = clipped_policy_losses(now.logps, old, advantages[rows, :width], ppo.clip)
        policy_loss = losses[mask].sum() / tokens
        with unmixed():
            policy_loss.backward()
    critic = actors.critic
    assert critic is not None
    with as_critic(critic) as model, learning(model, setting.model_dropout):
        values = token_values(model, critic.head, batch).to(old)
        errors, far = clipped_value_losses(
            values, experience.values[rows, :width], returns[rows, :width], ppo.value_clip
        )
        value_loss = ppo.value_weight * errors[mask].sum() / tokens
        with unmixed():
            value_loss.backward()
    moved = kl_terms(old, now.logps.detach(), "k3")[mask].sum()
    told = (
        policy_loss, value_loss, clipped[mask].sum() / tokens, moved, far[mask].sum() / tokens,
        mask.sum(),
    )  # fmt: skip
    return torch.stack([value.detach().double().cpu() for value in told])


def _told(sums: Tensor, lengths: Sequence[float], stopped: bool) -> dict[str, Any]:
    steps, tokens = max(1, len(lengths)), float(sums[5].clamp(min=1))
    policy_loss, value_loss, clipped, moved, far, _ = (float(value) for value in sums)
    return {
        "loss": (policy_loss + value_loss) / steps,
        "policy_loss": policy_loss / steps,
        "value_loss": value_loss / steps,
        "clip_share": clipped / steps,
        "value_clip_share": far / steps,
        "moved": moved / tokens,
        "inner_steps": len(lengths),
        "stopped": stopped,
        "gradient_norm": sum(lengths) / steps,
    }
