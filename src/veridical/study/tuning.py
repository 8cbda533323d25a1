"""A study's tuning: every arm's settings tried at the same budget, and the best one chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.eval.compare import evaluations_in
from veridical.runtime import run_files
from veridical.runtime.descriptions import read_description
from veridical.runtime.errors import UserError
from veridical.study.arms import Level
from veridical.study.expanding import Cell, Expansion, expand
from veridical.study.study_file import Study, Tuning


@dataclass(frozen=True)
class Tried:
    """One arm with one setting.

    Attributes:
        arm: its name.
        setting: the levels that were tried.
        value: of the metric that decides; None where it is undefined.
        chosen: whether the arm got this one.
    """

    arm: str
    setting: Mapping[str, Level]
    value: float | None
    chosen: bool


def trial_cells(study: Study, tuning: Tuning) -> dict[str, list[Cell]]:
    """For every arm that chooses for itself, a cell for each of its settings."""
    found = {}
    for arm in study.arms:
        if arm not in tuning.same_as:
            levels = study.levels(arm)
            found[arm] = [
                Cell(arm, tuning.seed, {**levels, **setting}) for setting in tuning.choices(levels)
            ]
    return found


def expand_trials(
    study: Study, tuning: Tuning, out: Path
) -> tuple[Expansion, dict[str, list[str]]]:
    """The steps of all trials, and for every arm the names of its evaluations, in order."""
    everything = Expansion(study, out)
    evaluations: dict[str, list[str]] = {}
    for arm, cells in trial_cells(study, tuning).items():
        for cell in cells:
            one = expand(study, out, [cell], [tuning.evaluation])
            for step in one.steps.values():
                everything.take(step)
            evaluations.setdefault(arm, []).append(
                one.parts[cell.arm, cell.seed, tuning.evaluation]
            )
    return everything, evaluations


def choose(
    study: Study, tuning: Tuning, trials: Expansion, evaluations: Mapping[str, Sequence[str]]
) -> list[Tried]:
    """Every setting that was tried with its value, the best of each arm chosen.

    Raises:
        UserError: the metric is not among the scores, has no better direction, or is undefined
            with every setting of an arm.
    """
    found: list[Tried] = []
    for arm, names in evaluations.items():
        read = [metric_value(trials.steps[name].output, tuning.metric) for name in names]
        values = [value for value, _ in read]
        better = read[0][1]
        if better is None:
            raise UserError(f"tuning.metric: {tuning.metric} has no better direction.")
        known = [value for value in values if value is not None]
        if not known:
            raise UserError(f"{tuning.metric} of arm {arm} is undefined with every setting.")
        best = values.index(max(known) if better == "higher" else min(known))
        settings = tuning.choices(study.levels(arm))
        found += [
            Tried(arm, setting, value, n == best)
            for n, (setting, value) in enumerate(zip(settings, values, strict=True))
        ]
    return found


def chosen_settings(tuning: Tuning, tried: Sequence[Tried]) -> dict[str, Mapping[str, Level]]:
    """Every arm's setting."""
    own = {one.arm: one.setting for one in tried if one.chosen}
    return own | {arm: own[other] for arm, other in tuning.same_as.items()}


def first_settings(study: Study, tuning: Tuning) -> dict[str, Mapping[str, Level]]:
    """Every arm's first setting, to show a plan before anything was tried."""
    return {arm: tuning.choices(study.levels(arm))[0] for arm in study.arms}


def cells_of(study: Study, settings: Mapping[str, Mapping[str, Level]]) -> list[Cell]:
    """Every arm with every seed, with its setting."""
    return [
        Cell(arm, seed, {**study.levels(arm), **settings.get(arm, {})})
        for arm in study.arms
        for seed in study.seeds
    ]


def metric_value(folder: Path, metric: str) -> tuple[float | None, str | None]:
    """A metric's value in an evaluation, and which direction is better.

    Raises:
        UserError: there is no such benchmark or metric there.
    """
    benchmark, _, name = metric.partition("/")
    places = evaluations_in(folder)
    if benchmark not in places:
        raise UserError(f"{folder} has no scores of {benchmark}; there is {', '.join(places)}.")
    content: Any = run_files.SCORES.read(places[benchmark])
    if name not in content["scores"]:
        known = ", ".join(content["scores"])
        raise UserError(f"{places[benchmark]} has no metric {name}; there is {known}.")
    described = read_description(content["benchmark"])
    return content["scores"][name]["value"], described.metric(name).better
