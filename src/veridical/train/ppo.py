"""Proximal policy optimization on rewards of fresh responses."""

from __future__ import annotations

from pathlib import Path

from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.model_argument import Model
from veridical.objectives.ppo import PPO
from veridical.train.options import Training
from veridical.train.prompts import PromptKind
from veridical.train.responses import Sampling
from veridical.train.rl.actors import build_actors
from veridical.train.rl.loop import reinforce
from veridical.train.rl.start import Arguments, begin


def train_ppo(
    model: Model,
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
        model: hub name, folder, adapter folder or `embedded`; in Python also a loaded policy,
            which is trained in place.
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
    given = Arguments(
        model, data, out, kind, standardize, judging, symbolic, sampling, ppo, training
    )
    with begin("train ppo", given) as start:
        actors = build_actors(start.policy, model, judging, training, True, ppo.one_base)
        reinforce(start, actors, ppo.value_learning_rate)
