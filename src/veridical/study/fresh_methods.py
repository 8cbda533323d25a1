"""Methods that learn from fresh responses, for the comparison: who judges, and how they train."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veridical.bdhs.settings import BDHSSettings
from veridical.builders.facts import build_facts
from veridical.builders.pairs import build_pairs
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.objectives.dpo import DPO
from veridical.objectives.likelihood import Likelihood
from veridical.objectives.ppo import PPO
from veridical.objectives.preference import Preference
from veridical.objectives.rloo import RLOO
from veridical.study.arms import Budget, is_finished, training_of
from veridical.study.method_sets import make_samples, scenes_of
from veridical.train.fresh import PairSource
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.prompts import PromptKind
from veridical.train.responses import Sampling
from veridical.train.reward import train_reward
from veridical.train.rloo import train_rloo

REWARD_STEPS = 180
REWARD_RATE = 3e-4
"""Of both reward models; the values of the study of reward models."""
SAMPLING = Sampling(max_new_tokens=80, rollout_batch=256)
PPO_PASSES = 1
"""Over a step's responses, so that PPO too learns once from each."""
NO_END_PENALTY = 1.0
"""In standard deviations of the judge's scores (our choice)."""


@dataclass(frozen=True)
class Fresh:
    """One way of learning from fresh responses.

    Attributes:
        command: what trains.
        judge: `exact`, a reward model without facts (`reward`) or with (`facts`); `none` for BDHS.
        pairs: of `online`, where pairs come from.
    """

    command: Literal["online", "ppo", "rloo"]
    judge: Literal["exact", "reward", "facts", "none"]
    pairs: PairSource = "online"


def make_samples_and_rewards(out: Path, model: str, seed: int, budget: Budget) -> None:
    """Samples of every prompt, ranked by truth, and two reward models that learn from them."""
    make_samples(out, model, seed, budget)
    sets, scenes = out / f"seed{seed}" / "pairs", scenes_of(out, seed)
    if not is_finished(sets / "ranked"):
        build_pairs(sets / "rated" / "samples.parquet", sets / "ranked", "extremes", ["exact"], 0.0)
    facts = scenes / "facts.json"
    if not is_finished(sets / "ranked-facts"):
        build_facts(sets / "ranked" / "pairs.parquet", facts, sets / "ranked-facts")
    if not is_finished(sets / "prompts"):
        build_facts(scenes / "conversations.jsonl", facts, sets / "prompts", "conversation")
    for name in ("reward", "facts"):
        folder = reward_folder(out, seed, name)
        if is_finished(folder):
            continue
        training = Training(
            tuning="full", train_projector=budget.train_projector, learning_rate=REWARD_RATE,
            max_steps=REWARD_STEPS, batch_size=budget.batch, accumulation=1, held_out=0.05,
            evaluations=4, seed=seed, resume=(folder / "checkpoints").is_dir(),
            cache=str(out / "cache"), vision_cache=True,
            trainer={"logging_steps": 10, "adam_beta2": 0.98},
        )  # fmt: skip
        ranked = sets / "ranked-facts" / "records.parquet"
        train_reward(model, ranked, folder, facts=name == "facts", training=training)


def reward_folder(out: Path, seed: int, name: str) -> Path:
    """Where a reward model is trained."""
    return out / f"seed{seed}" / "rewards" / name


def prompts_file(out: Path, seed: int) -> Path:
    """The prompts that fresh responses are made for, with the facts of their images."""
    return out / f"seed{seed}" / "pairs" / "prompts" / "records.parquet"


def learned_from(out: Path, seed: int, fresh: Fresh) -> list[Path]:
    """What decides a method's result, besides its settings: its records, and who judges."""
    true_answers = out / f"seed{seed}" / "pairs" / "bdhs" / "pairs.parquet"
    data = prompts_file(out, seed) if fresh.pairs == "online" else true_answers
    if fresh.judge in ("reward", "facts"):
        return [data, reward_folder(out, seed, fresh.judge) / "model"]
    return [data]


def train_fresh(
    out: Path,
    model: str,
    fresh: Fresh,
    learning_rate: float,
    beta: float,
    seed: int,
    budget: Budget,
    folder: Path,
) -> None:
    """Train with one setting, at the budget of all other methods.

    Args:
        out: the comparison's folder.
        model: to start from.
        fresh: which method.
        learning_rate: peak.
        beta: of the preference loss, or the weight of the KL penalty.
        seed: which seed.
        budget: what every method gets.
        folder: of this run.
    """
    scenes = scenes_of(out, seed)
    data, *reward_model = learned_from(out, seed, fresh)
    judging = Judging(
        judge=f"reward:{reward_model[0]}" if reward_model else fresh.judge,
        objects=scenes / "objects.json",
        vocabulary=scenes / "vocabulary.json",
    )
    keeps = fresh.command != "online"
    training = dataclasses.replace(
        training_of(budget, learning_rate, seed, folder), held_out=0.0,
        cache=str(out / "cache") if keeps else "none", vision_cache=keeps,
    )  # fmt: skip
    if keeps:  # PPO and RLOO log every step
        rest = {k: v for k, v in (training.trainer or {}).items() if k != "logging_steps"}
        training = dataclasses.replace(training, trainer=rest)
    symbolic = Symbolic(no_end_penalty=NO_END_PENALTY)
    kind: PromptKind = "conversation" if fresh.pairs == "online" else "preference"
    if fresh.command == "online":
        # The chosen answer of a fresh pair is the model's own: there is no truth to hold it to.
        nll_weight = 0.0 if fresh.pairs == "online" else budget.nll_weight
        train_online(
            model, data, folder, fresh.pairs, kind,
            objective=Preference(DPO(beta), (Likelihood(nll_weight),)),
            judging=judging, sampling=SAMPLING,
            bdhs=BDHSSettings(similarity="edit", cut="beginning"), training=training,
        )  # fmt: skip
    elif fresh.command == "ppo":
        train_ppo(
            model, data, folder, kind, standardize=True, judging=judging,
            symbolic=symbolic, sampling=SAMPLING, training=training,
            ppo=PPO(kl_coefficient=beta, inner_epochs=PPO_PASSES),
        )  # fmt: skip
    else:
        train_rloo(
            model, data, folder, kind, judging=judging, symbolic=symbolic,
            sampling=SAMPLING, rloo=RLOO(kl_coefficient=beta), training=training,
        )  # fmt: skip
