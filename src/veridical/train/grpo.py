"""Group relative policy optimization, on rewards of several responses to each prompt."""

from __future__ import annotations

from pathlib import Path

from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.model_argument import Model
from veridical.objectives.grpo import GRPO
from veridical.train.options import Training
from veridical.train.prompts import PromptKind
from veridical.train.responses import Sampling
from veridical.train.rl.actors import build_actors
from veridical.train.rl.loop import reinforce
from veridical.train.rl.start import Arguments, begin


def train_grpo(
    model: Model,
    data: Path,
    out: Path,
    kind: PromptKind = "prompt",
    standardize: bool = False,
    judging: Judging = Judging(),
    symbolic: Symbolic = Symbolic(),
    sampling: Sampling = Sampling(),
    grpo: GRPO = GRPO(),
    training: Training = Training(learning_rate=1e-5, held_out=0.0, select_by="reward"),
) -> None:
    """Align MODEL by GRPO: several responses to each prompt in DATA, each against its group.

    A response's advantage is its reward less the mean of its group, divided by the group's standard
    deviation; each of its tokens has it (Shao et al. 2024). The penalty for what the policy has
    moved is in the loss, and there is no value model. Options make it Dr. GRPO, DAPO or GSPO.
    `log.jsonl` counts the prompts whose responses all earned the same (`equal_groups`).

    Args:
        model: hub name, folder, adapter folder or `embedded`; in Python also a loaded policy,
            which is trained in place.
        data: prompts, Parquet or JSON Lines.
        out: folder for the run: `model/`, `log.jsonl`, `proofs.json`, `run.json`.
        kind: what DATA holds: `prompt`, `conversation` or `preference`; answers are not learned.
        standardize: shift and scale the judge's scores to mean 0 and deviation 1 over what DATA
            already holds (pairs), or the start's own responses; so that penalties beside them mean
            the same with every judge.
        judging: who rewards.
        symbolic: what counts besides.
        sampling: how responses are made.
        grpo: how they are learned from.
        training: what every training command takes.
    """
    given = Arguments(
        model, data, out, kind, standardize, judging, symbolic, sampling, grpo, training
    )
    with begin("train grpo", given) as start:
        actors = build_actors(start.policy, model, judging, training, False, True)
        reinforce(start, actors)
