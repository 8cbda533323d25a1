"""REINFORCE with a leave-one-out baseline, on rewards of several responses to each prompt."""

from __future__ import annotations

from pathlib import Path

from veridical.judges.named import NONE, Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.model_argument import Model
from veridical.objectives.rloo import RLOO
from veridical.train.options import Training
from veridical.train.prompts import PromptKind
from veridical.train.responses import Sampling
from veridical.train.rl.actors import build_actors
from veridical.train.rl.loop import reinforce
from veridical.train.rl.start import Arguments, begin


def train_rloo(
    model: Model,
    data: Path,
    out: Path,
    kind: PromptKind = "prompt",
    standardize: bool | None = None,
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
        model: hub name, folder, adapter folder or `embedded`; in Python also a loaded policy,
            which is trained in place.
        data: prompts, Parquet or JSON Lines.
        out: folder for the run: `model/`, `log.jsonl`, `proofs.json`, `run.json`.
        kind: what DATA holds: `prompt`, `conversation` or `preference`; answers are not learned.
        standardize: shift and scale the judge's scores to mean 0 and deviation 1 over what DATA
            already holds (pairs), or the start's own responses. If not set, it is done wherever
            there is a judge.
        judging: who rewards.
        symbolic: what counts besides.
        sampling: how responses are made.
        rloo: how they are learned from.
        training: what every training command takes.
    """
    if standardize is None:
        standardize = judging.kind != NONE
    given = Arguments(
        model, data, out, kind, standardize, judging, symbolic, sampling, rloo, training
    )
    with begin("train rloo", given) as start:
        actors = build_actors(start.policy, model, judging, training, False, True)
        reinforce(start, actors)
