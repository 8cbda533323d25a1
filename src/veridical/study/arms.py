"""What the evidence is made of: pairs, a trained arm, its evaluation, the summary."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from veridical.bdhs.settings import BDHSSettings
from veridical.builders.bdhs import build_bdhs
from veridical.eval.benchmark import find_benchmark
from veridical.eval.chair import ChairOptions, eval_chair
from veridical.eval.compare import compare_runs
from veridical.eval.evaluation import Asking, Subject
from veridical.eval.pope import PopeOptions, eval_pope
from veridical.eval.scores import described, read_scores
from veridical.objectives.dpo import DPO
from veridical.objectives.likelihood import Likelihood
from veridical.objectives.preference import AveragedPreference
from veridical.runtime.errors import UserError
from veridical.runtime.run_files import ScoreEntry
from veridical.runtime.run_folders import claim_folder
from veridical.runtime.run_record import RECORD, read_record
from veridical.runtime.runs import Run, json_types, start_run
from veridical.train.dpo import train_dpo
from veridical.train.options import Training
from veridical.train.sft import train_sft
from veridical.world.dataset import write_scenes
from veridical.world.scenes import Distribution

EVALUATED = ("chair", "pope")
"""The benchmarks that every arm is evaluated by; each has a folder of its name."""


@dataclass(frozen=True)
class Arm:
    """One thing to try, with everything else equal.

    Attributes:
        name: as in folders and tables.
        method: `dpo` on the pairs, or `sft` on their chosen answers (the control).
        pairs: name of the pair set it learns from.
        variant: how sight is restricted where the pairs are made.
        guided: whether sentences begin with true words there.
    """

    name: str
    method: Literal["dpo", "sft"]
    pairs: str
    variant: Literal["mask", "noise", "none"] = "mask"
    guided: bool = True


@dataclass(frozen=True)
class Budget:
    """What every arm gets, the same for all; chosen on development scenes.

    Attributes:
        pairs: scenes that pairs are made from.
        steps: optimizer steps.
        batch: pairs a step.
        learning_rate: peak.
        beta: of DPO.
        nll_weight: of the chosen answer.
        scenes: counter-prior scenes that are evaluated on.
        noise_steps: of the image noise variant.
        train_projector: train the projector beside the language model.
    """

    pairs: int = 2400
    steps: int = 100
    batch: int = 32
    learning_rate: float = 2e-4
    beta: float = 0.1
    nll_weight: float = 3.0
    scenes: int = 1000
    noise_steps: int = 500
    train_projector: bool = True


BDHS = Arm("bdhs", "dpo", "bdhs")
SFT = Arm("sft", "sft", "bdhs")
PLAIN = Arm("plain", "dpo", "plain", "none", guided=False)
NOISE = Arm("noise", "dpo", "noise", "noise")
UNGUIDED = Arm("unguided", "dpo", "unguided", "mask", guided=False)


def is_finished(folder: Path) -> bool:
    """Whether a run in this folder said that it finished."""
    return (folder / RECORD).is_file() and read_record(folder).status == "finished"


def ensure_scenes(folder: Path, distribution: Distribution, count: int, seed: int) -> None:
    """Draw scenes unless they are there already."""
    if (folder / "scenes.json").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    write_scenes(folder, distribution, count, seed, questions=0)


def ensure_pairs(arm: Arm, model: str, scenes: Path, out: Path, budget: Budget, seed: int) -> None:
    """Make the arm's pairs unless they are finished; an interrupted build goes on."""
    if is_finished(out):
        return
    build_bdhs(
        model,
        data=scenes / "conversations.jsonl",
        out=out,
        bdhs=BDHSSettings(
            variant=arm.variant,
            guided=arm.guided,
            noise_steps=budget.noise_steps,
            similarity="edit",
            cut="beginning",
        ),
        max_new_tokens=80,
        batch_size=256,
        seed=seed,
    )


def ensure_trained(arm: Arm, model: str, pairs: Path, out: Path, budget: Budget, seed: int) -> None:
    """Train the arm unless it is finished; an interrupted training goes on from a checkpoint."""
    if is_finished(out):
        return
    training = training_of(budget, budget.learning_rate, seed, out)
    if arm.method == "dpo":
        objective = AveragedPreference(DPO(budget.beta), (Likelihood(budget.nll_weight),))
        train_dpo(model, pairs, out, objective, training=training)
    else:
        train_sft(model, pairs, out, kind="preference", training=training)


def training_of(budget: Budget, learning_rate: float, seed: int, out: Path) -> Training:
    """How every arm is trained; where there are checkpoints in `out`, it goes on from them."""
    return Training(
        tuning="full",
        train_projector=budget.train_projector,
        learning_rate=learning_rate,
        max_steps=budget.steps,
        batch_size=budget.batch,
        accumulation=1,
        evaluations=4,
        resume=(out / "checkpoints").is_dir(),
        seed=seed,
        trainer={"logging_steps": 2, "adam_beta2": 0.98},
    )


def ensure_evaluated(
    model: str, scenes: Path, out: Path, steer: str | None = None, with_pope: bool = True
) -> None:
    """CHAIR and POPE on the scenes, unless they are finished.

    Args:
        model: the trained one.
        scenes: the folder that `ensure_scenes` made.
        out: gets `chair/` and `pope/`.
        steer: attributes to ask for (of a SteerLM model).
        with_pope: leave POPE out where it decides nothing.
    """
    subject = Subject(model, images=scenes / "images")
    objects = scenes / "objects.json"
    if not is_finished(out / "chair"):
        eval_chair(
            ChairOptions(objects, scenes / "vocabulary.json", "Describe the image."),
            out / "chair",
            subject,
            Asking(max_new_tokens=80, batch_size=100, steer=steer),
        )
    if with_pope and not is_finished(out / "pope"):
        eval_pope(
            PopeOptions(objects=objects, per_image=1),
            out / "pope",
            subject,
            Asking(max_new_tokens=4, batch_size=200, steer=steer),
        )


def trained_model(out: Path) -> str:
    """What to load after `ensure_trained`."""
    return str(out / "model")


def scores_by_benchmark(folder: Path) -> dict[str, dict[str, ScoreEntry]]:
    """The scores of an evaluated arm, by benchmark and metric."""
    return {name: read_scores(folder / name) for name in EVALUATED}


def differences_of(
    arm: str, baseline: str, arm_folder: Path, baseline_folder: Path, seed: int
) -> list[dict[str, object]]:
    """Paired differences in every metric, arm minus baseline."""
    rows = [
        row
        for name in EVALUATED
        for row in compare_runs(baseline_folder / name, arm_folder / name, baseline, arm)
    ]
    return [{**row, "seed": seed} for row in rows]


def evaluated_by() -> list[dict[str, object]]:
    """The benchmarks that arms are evaluated by, as a summary describes them."""
    return [described(find_benchmark(name)) for name in EVALUATED]


def mean_score(arms: Sequence[Mapping[str, Any]], metric: str) -> float:
    """The mean over a summary's arms of a metric that is named as "benchmark/metric"."""
    benchmark, _, name = metric.partition("/")
    return fmean(arm["scores"][benchmark][name]["value"] for arm in arms)


def changes_from_base(summary: Mapping[str, Any], arm: str, metric: str) -> str:
    """An arm's differences from the base in a metric, one for each seed, in percentage points."""
    wanted = (arm, "base", *metric.split("/", 1))
    return "; ".join(
        f"{100 * row['value']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        for row in summary["differences"]
        if (row["arm"], row["baseline"], row["benchmark"], row["metric"]) == wanted
    )


def describe_change(rows: Sequence[Mapping[str, Any]], arm: str, baseline: str) -> str:
    """One line: what happened to CHAIR_i and recall."""
    by_metric = {
        row["metric"]: row
        for row in rows
        if (row["arm"], row["baseline"], row["benchmark"]) == (arm, baseline, "chair")
    }
    chair, recall = by_metric["chair_i"], by_metric["recall"]
    return (
        f"{arm} against {baseline}: CHAIR_i {100 * chair['baseline_value']:.1f}% -> "
        f"{100 * chair['arm_value']:.1f}% (difference {100 * chair['value']:+.1f} "
        f"[{100 * chair['low']:+.1f}, {100 * chair['high']:+.1f}]), recall "
        f"{100 * recall['value']:+.1f} points"
    )


def begin_study(out: Path, command: str, configuration: Mapping[str, Any]) -> Run:
    """Start a study of many runs, or go on with one that was begun with the same options.

    Args:
        out: the study's folder.
        command: its word.
        configuration: every option; `model` and `budget` have to stay what they were.

    Raises:
        UserError: as for `start_run`, or the study was begun with another model or budget.
    """
    recorded = json_types(configuration)
    claim_folder(out, command, configuration, recorded, [Path(configuration["model"])])
    known = read_record(out).configuration if (out / RECORD).is_file() else recorded
    for name in ("model", "budget"):
        if known.get(name) != recorded[name]:
            raise UserError(
                f"{out} was begun with {name} = {known.get(name)}, not {recorded[name]}. "
                "Go on with the same, or choose another --out."
            )
    return start_run(out, command, configuration)
