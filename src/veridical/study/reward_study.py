"""Reward models with and without facts, in the drawn world: what they get right, and by what."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from veridical.builders.facts import build_facts
from veridical.builders.options import ObjectFiles
from veridical.builders.pairs import build_pairs
from veridical.builders.rate import build_rate
from veridical.builders.sample import build_sample
from veridical.eval.reward import eval_reward
from veridical.eval.scores import read_scores
from veridical.runtime.files import read_json, write_json
from veridical.runtime.progress import track
from veridical.sampling import Decoding
from veridical.study.arms import BDHS, Budget, begin_study, ensure_pairs, is_finished
from veridical.study.method_sets import SAMPLES
from veridical.study.workers import Job, run_jobs
from veridical.train.options import Training
from veridical.train.reward import train_reward
from veridical.world.dataset import write_scenes
from veridical.world.scenes import Distribution
from veridical.world.wrong_facts import WRONG_KINDS, Told, write_wrong_facts

# Scenes that rewards are measured on; what is learned and sampled comes from others.
EVALUATION_SEED = 27_644
LEARNING_SEED = 15_331
QUESTION = "Is this exactly what the image shows?"
BOTH = (True, False)


@dataclass(frozen=True)
class RewardBudget:
    """What every reward model gets; chosen on other scenes than those it is measured on.

    Attributes:
        scenes: that pairs are learned from, four of each.
        steps: optimizer steps.
        batch: pairs a step.
        learning_rate: peak.
        evaluated: scenes that held-out pairs with a wrong fact are made from, four of each.
        sampled: scenes that the other held-out pairs are made from, one of each.
    """

    scenes: int = 1500
    steps: int = 300
    batch: int = 32
    learning_rate: float = 1e-3
    evaluated: int = 300
    sampled: int = 600


@dataclass(frozen=True)
class StudyQuestion:
    """One evaluation of a reward model.

    Attributes:
        name: as in folders and tables.
        data: which held-out set.
        facts: see `eval reward`.
        images: see `eval reward`.
        asks: whether it is asked of reward models with facts, without, or both.
    """

    name: str
    data: str
    facts: Literal["own", "none", "other"] = "own"
    images: Literal["own", "gray"] = "own"
    asks: tuple[bool, ...] = BOTH

    @property
    def folder(self) -> str:
        """Its name, fit for a folder."""
        return self.name.replace(", ", "-").replace(" ", "-")


WITH_FACTS = (True,)
QUESTIONS: tuple[StudyQuestion, ...] = (
    StudyQuestion("wrong", "wrong"),
    StudyQuestion("samples", "samples"),
    StudyQuestion("bdhs", "bdhs"),
    StudyQuestion("wrong, gray image", "wrong", images="gray"),
    StudyQuestion("samples, gray image", "samples", images="gray"),
    StudyQuestion("wrong, half of the facts", "wrong-half", asks=WITH_FACTS),
    StudyQuestion("wrong, no facts", "wrong", facts="none", asks=WITH_FACTS),
    StudyQuestion("wrong, facts of another image", "wrong", facts="other", asks=WITH_FACTS),
    StudyQuestion("wrong, facts wrong where the answer is", "wrong-wrong", asks=WITH_FACTS),
    StudyQuestion("samples, no facts", "samples", facts="none", asks=WITH_FACTS),
    StudyQuestion("samples, facts of another image", "samples", facts="other", asks=WITH_FACTS),
)


def reward_study(
    out: Path = Path("runs/rewards"),
    model: str = "embedded",
    seeds: int = 3,
    workers: int = 2,
) -> None:
    """Train reward models with facts and without, and find out what they are worth.

    They learn from pairs that differ by one wrong fact, and are asked about held-out pairs of that
    kind, about the base model's own samples ranked by the exact judge, and about BDHS pairs; with
    facts that are true, missing or wrong, and with the picture grayed out. A seed changes the
    scenes learned from, what is wrong, and the order of training.

    Args:
        out: folder to write; a study that was interrupted there goes on.
        model: the model to start from, and to sample held-out pairs with.
        seeds: how many seeds.
        workers: processes at once, one thread each.
    """
    options = {"out": out, "model": model, "seeds": seeds, "workers": workers}
    budget = RewardBudget()
    began = time.monotonic()
    with begin_study(out, "rewards", {**options, "budget": asdict(budget)}) as run:
        jobs = [Job("held-out", make_held_out, (out, model, budget))]
        jobs += [Job(f"pairs{seed}", make_pairs, (out, seed, budget)) for seed in range(seeds)]
        _run_all("pairs", jobs, out, workers)
        arms = [(seed, facts) for seed in range(seeds) for facts in BOTH]
        jobs = [
            Job(arm_folder(out, *arm).name, run_arm, (out, model, *arm, budget)) for arm in arms
        ]
        _run_all("reward models", jobs, out, workers)
        summary = summarize_rewards(out, range(seeds), budget)
        write_json(out / "summary.json", summary)
        run.finish(seconds=round(time.monotonic() - began, 1))
    print(rewards_table(summary))


def _run_all(label: str, jobs: Sequence[Job], out: Path, workers: int) -> None:
    for _ in track(run_jobs(jobs, out / "logs", workers), label, len(jobs)):
        pass


def arm_folder(out: Path, seed: int, facts: bool) -> Path:
    """Where a reward model and what it was asked are."""
    return out / f"seed{seed}-{'facts' if facts else 'plain'}"


def make_held_out(out: Path, model: str, budget: RewardBudget) -> None:
    """The pairs that nothing is learned from: the same for all reward models."""
    folder = out / "held-out"
    uniform = _scenes(folder / "uniform", "uniform", budget.evaluated, EVALUATION_SEED)
    told: dict[str, Told] = {"wrong": "all", "wrong-half": "half", "wrong-wrong": "wrong"}
    for name, facts in told.items():
        if not is_finished(folder / name):
            write_wrong_facts(uniform, folder / name, facts, EVALUATION_SEED)
    counter = _scenes(folder / "counter", "counter", budget.sampled, EVALUATION_SEED)
    _ranked_samples(counter, folder, model, EVALUATION_SEED)
    pairs = folder / "bdhs-pairs"
    ensure_pairs(BDHS, model, counter, pairs, Budget(), EVALUATION_SEED)
    _with_facts(pairs / "pairs.parquet", counter, folder / "bdhs")


def make_pairs(out: Path, seed: int, budget: RewardBudget) -> None:
    """What a seed's reward models learn from."""
    own, folder = LEARNING_SEED + seed, out / "pairs" / f"seed{seed}"
    scenes = _scenes(folder / "scenes", "uniform", budget.scenes, own)
    if not is_finished(folder / "wrong"):
        write_wrong_facts(scenes, folder / "wrong", "all", own)


def _scenes(folder: Path, distribution: Distribution, count: int, seed: int) -> Path:
    if not (folder / "scenes.json").is_file():
        write_scenes(folder, distribution, count, seed, questions=0)
    return folder


def _ranked_samples(scenes: Path, folder: Path, model: str, seed: int) -> None:
    """The base's own answers, the best against the worst by truth, with facts."""
    if not is_finished(folder / "sampled"):
        build_sample(
            model, data=scenes / "conversations.jsonl", out=folder / "sampled", k=SAMPLES,
            decoding=Decoding(80, 0.7, seed, batch_size=256),
        )  # fmt: skip
    if not is_finished(folder / "rated"):
        build_rate(
            folder / "sampled" / "samples.parquet", folder / "rated", files=ObjectFiles(
                objects=scenes / "objects.json", vocabulary=scenes / "vocabulary.json"
            ),
        )  # fmt: skip
    if not is_finished(folder / "ranked"):
        build_pairs(
            folder / "rated" / "samples.parquet", folder / "ranked", "extremes", ["exact"], 0.0
        )
    _with_facts(folder / "ranked" / "pairs.parquet", scenes, folder / "samples")


def _with_facts(pairs: Path, scenes: Path, out: Path) -> None:
    if not is_finished(out):
        build_facts(pairs, scenes / "facts.json", out)


def _pairs_in(folder: Path) -> Path:
    """`world pairs` and `build facts` name their files differently."""
    found = folder / "records.parquet"
    return found if found.is_file() else folder / "pairs.parquet"


def run_arm(out: Path, model: str, seed: int, facts: bool, budget: RewardBudget) -> None:
    """Train one reward model and ask it everything."""
    folder = arm_folder(out, seed, facts)
    trained = folder / "train"
    if not is_finished(trained):
        training = Training(
            tuning="full", train_projector=True, learning_rate=budget.learning_rate,
            max_steps=budget.steps, batch_size=budget.batch, accumulation=1, held_out=0.02,
            evaluations=4, seed=seed, resume=(trained / "checkpoints").is_dir(), cache="none",
            trainer={"logging_steps": 10, "adam_beta2": 0.98},
        )  # fmt: skip
        data = _pairs_in(out / "pairs" / f"seed{seed}" / "wrong")
        train_reward(model, data, trained, facts, QUESTION, training=training)
    for question in QUESTIONS:
        asked = folder / "asked" / question.folder
        if facts in question.asks and not is_finished(asked):
            eval_reward(
                trained / "model", [_pairs_in(out / "held-out" / question.data)], asked,
                by=["kind"], facts=question.facts, images=question.images, batch_size=32,
            )  # fmt: skip


def summarize_rewards(out: Path, seeds: Sequence[int], budget: RewardBudget) -> dict[str, Any]:
    """Every score of every reward model."""
    rows = []
    for seed in seeds:
        for facts in BOTH:
            folder = arm_folder(out, seed, facts)
            seconds = read_json(folder / "train" / "run.json")["results"]["train_seconds"]
            for question in QUESTIONS:
                if facts not in question.asks:
                    continue
                rows.append(
                    {
                        "seed": seed,
                        "facts": facts,
                        "asked": question.name,
                        "scores": read_scores(folder / "asked" / question.folder),
                        "train_seconds": seconds,
                    }
                )
    return {"rows": rows, "budget": asdict(budget)}


def rewards_table(summary: Mapping[str, Any]) -> str:
    """Accuracy on held-out pairs, the mean over seeds and its range, as Markdown."""
    lines = ["| asked about | with facts | without |", "|---|---|---|"]
    kinds = [f"kind={kind}/accuracy" for kind in WRONG_KINDS]
    for question in QUESTIONS:
        wanted = ["accuracy", *(kinds if question.data.startswith("wrong") else [])]
        for name in wanted:
            values = [
                [
                    row["scores"][name]["value"]
                    for row in summary["rows"]
                    if (row["asked"], row["facts"]) == (question.name, facts)
                ]
                for facts in BOTH
            ]
            label = question.name if name == "accuracy" else f"- {name.split('=')[1][:-9]}"
            lines.append(f"| {label} | {' | '.join(map(_spread, values))} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{100 * fmean(values):.1f}% ({100 * low:.1f} to {100 * high:.1f})"
