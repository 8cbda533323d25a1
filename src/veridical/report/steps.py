"""The steps of a run, as the report lists them: command, settings and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veridical.report.folders import Part
from veridical.report.wording import duration, scientific
from veridical.runtime.descriptions import read_description
from veridical.runtime.run_files import (
    SCORES,
)
from veridical.runtime.run_record import RunFields


@dataclass(frozen=True)
class Step:
    """One run in words, with its full record."""

    title: str
    sentence: str
    facts: list[tuple[str, str]]
    status: str
    reason: str
    record: Mapping[str, Any]


FACTS = {
    "model": "model",
    "data": "data",
    "images": "images",
    "answers": "answers",
    "baseline": "baseline",
    "candidate": "candidate",
    "variant": "image hidden by",
    "guided": "guided",
    "mask_threshold": "share of image tokens masked",
    "noise_steps": "noise steps",
    "similarity": "similarity",
    "iterations": "iterations",
    "cut": "cut",
    "tuning": "tuning",
    "lora_rank": "LoRA rank",
    "learning_rate": "learning rate",
    "max_steps": "steps",
    "epochs": "epochs",
    "batch_size": "batch size",
    "accumulation": "accumulation",
    "held_out": "held out",
    "seed": "seed",
    "seeds": "seeds",
}


# Options that say nothing at this value, or that another option makes meaningless.
IDLE = {"max_steps": -1, "accumulation": 1}


VERBS = {
    "build sample": "Answers were sampled from the model",
    "build rate": "Sampled answers were rated",
    "build annotate": "Sampled answers were marked by a judge",
    "build best": "The best of the sampled answers were kept",
    "build facts": "Facts were added to the records",
    "build objects": "Object lists were made",
    "build compose": "A set was composed of others",
    "build instruct": "Instructions were made",
    "build": "Preference pairs were built",
    "data split": "Rows were held out",
    "train dpo": "The model was aligned by DPO",
    "train online": "The model was aligned on pairs that it made",
    "train ppo": "The model was aligned by reinforcement learning (PPO)",
    "train rloo": "The model was aligned by reinforcement learning (RLOO)",
    "train grpo": "The model was aligned by reinforcement learning (GRPO)",
    "train sft": "The model was fine-tuned (SFT)",
    "train steerlm": "The model was fine-tuned on rated answers (SteerLM)",
    "train reward": "A reward model was trained",
    "eval compare": "Two evaluations were compared",
    "eval": "A model was evaluated",
    "align": "The steps of an alignment were run",
    "evidence": "The study was run",
    "world": "The embedded world was used",
}


def steps(parts: Sequence[Part]) -> list[Step]:
    """Every part that has a `run.json`, in the order of their start."""
    return [_step(part) for part in parts if part.record]


def _step(part: Part) -> Step:
    record = part.record
    command = str(record.get("command", ""))
    verb = next((VERBS[key] for key in VERBS if command.startswith(key)), f"`{command}` was run")
    if part.kind == "eval":
        benchmark = read_description(SCORES.read(part.folder)["benchmark"])
        verb = f"{benchmark.done} ({benchmark.title})"
    hardware = record.get("hardware") or {}
    took = duration(record.get("wall_time_seconds"))
    where = f"{hardware.get('cores')} cores" if hardware.get("cores") else ""
    where = ", ".join(hardware.get("gpus") or []) or where
    sentence = verb + (f" in {took}" if took else "") + (f" on {where}" if where else "") + "."
    return Step(
        f"{command} \N{MIDDLE DOT} {part.name}",
        sentence,
        _facts(record.get("configuration") or {}) + _objective_facts(objective_of(record)),
        str(record.get("status", "")),
        str(record.get("reason", "")),
        record,
    )


def _facts(configuration: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = dict(_flatten(configuration))
    if found.get("tuning") == "full":
        found.pop("lora_rank", None)
    if found.get("max_steps", -1) != -1:
        found.pop("epochs", None)
    if found.get("pairs") in ("online", "mixed"):
        for key in ("variant", "mask_threshold", "noise_steps", "similarity", "iterations", "cut"):
            found.pop(key, None)
    if found.get("variant", "noise") != "noise":
        found.pop("noise_steps", None)
    return [
        (label, _fact(found[key]))
        for key, label in FACTS.items()
        if found.get(key) not in (None, "", [], {}) and found[key] != IDLE.get(key)
    ]


def _fact(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return scientific(value) if isinstance(value, float) else str(value)


def objective_of(record: RunFields) -> Mapping[str, Any]:
    """The options of what was minimized, as `run.json` describes it; empty where it says nothing.

    `loss` is its name.
    """
    described = record.get("objective")
    options = described.get("options") if isinstance(described, Mapping) else None
    return options if isinstance(options, Mapping) else {}


def reward_scale(record: RunFields) -> tuple[float | None, bool]:
    """What the logged rewards of a run's pairs are: their beta, and whether they are of means.

    Runs of older versions do not say. Theirs are of sums, whatever their loss read, unless the loss
    takes means itself.
    """
    described = record.get("objective")
    rewards = described.get("rewards") if isinstance(described, Mapping) else None
    if isinstance(rewards, Mapping):
        beta, of_means = rewards.get("beta"), rewards.get("of") == "means"
    else:
        options = objective_of(record)
        beta, of_means = options.get("beta"), options.get("loss") in ("simpo", "orpo")
    return (float(beta) if isinstance(beta, int | float) else None), of_means


def compares_with_reference(record: RunFields) -> bool:
    """Whether the rewards of a run's pairs are log-ratios; older records do not say."""
    described = record.get("objective")
    return not isinstance(described, Mapping) or described.get("needs_reference") is not False


def _objective_facts(objective: Mapping[str, Any]) -> list[tuple[str, str]]:
    """An objective's options that are not off."""
    return [
        (name.replace("_", " ").replace("nll", "NLL"), _fact(value))
        for name, value in objective.items()
        if value
    ]


def _flatten(configuration: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in configuration.items():
        if isinstance(value, Mapping):
            yield from _flatten(value)
        else:
            yield key, value
