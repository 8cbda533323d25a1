"""A study as steps: what its arms, seeds and tuning come to, and a runner of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.runtime.errors import UserError
from veridical.study.commands import path_options
from veridical.study.expanding import Cell, Expansion, expand
from veridical.study.keys import Keys
from veridical.study.ledger import read_ledger
from veridical.study.plan import Plan, Step
from veridical.study.rates import kind_of
from veridical.study.running import Runner
from veridical.study.stage_code import code_hash
from veridical.study.step_jobs import Executing
from veridical.study.study_file import Study, Tuning
from veridical.study.tuning import (
    Tried,
    cells_of,
    choose,
    chosen_settings,
    expand_trials,
    first_settings,
)


@dataclass(frozen=True)
class Laid:
    """A study laid out as steps.

    Attributes:
        study: the study.
        out: its folder.
        trials: the steps of its tuning; empty where it has none.
        evaluations: for each arm the names of its trials' evaluations.
        tried: what tuning found; empty before it is done.
        expansion: the steps of all arms and seeds.
        cells: every arm with every seed.
        known: whether the settings are those that tuning chose, or there is none.
    """

    study: Study
    out: Path
    trials: Expansion
    evaluations: Mapping[str, Sequence[str]]
    tried: Sequence[Tried]
    expansion: Expansion
    cells: Sequence[Cell]
    known: bool

    @property
    def plan(self) -> Plan:
        """Trials first, then everything else; a step that is both stands once.

        Raises:
            UserError: two steps with different options have one name.
        """
        both = Expansion(self.study, self.out, dict(self.trials.steps))
        for step in self.expansion.steps.values():
            both.take(step)
        return both.plan()

    @property
    def trial_plan(self) -> Plan:
        """The trials alone."""
        return self.trials.plan()


def folder_of(study: Study, out: Path | None) -> Path:
    """The study's folder."""
    return Path("runs") / study.name if out is None else out


def lay_out(study: Study, out: Path, accept_code: bool = False) -> Laid:
    """A study's steps, with the settings that tuning chose where it is done.

    Raises:
        UserError: the study can't be laid out.
    """
    if study.tuning is None:
        cells = cells_of(study, {})
        return Laid(
            study, out, Expansion(study, out), {}, (), expand(study, out, cells), cells, True
        )
    trials, evaluations = expand_trials(study, study.tuning, out)
    tried = _tried(study, study.tuning, trials, evaluations, accept_code)
    settings = (
        chosen_settings(study.tuning, tried) if tried else first_settings(study, study.tuning)
    )
    cells = cells_of(study, settings)
    names = [
        name
        for name in dict.fromkeys(step.name for step in study.steps)
        if name != study.tuning.evaluation
    ]
    expansion = expand(study, out, cells, names)
    return Laid(study, out, trials, evaluations, tried, expansion, cells, bool(tried))


def _tried(
    study: Study,
    tuning: Tuning,
    trials: Expansion,
    evaluations: Mapping[str, Sequence[str]],
    accept_code: bool,
) -> list[Tried]:
    """What tuning found; nothing before all trials are done."""
    plan = trials.plan()
    runner = runner_of(plan, Executing(trials.out), accept_code)
    wanted = {name for names in evaluations.values() for name in names}
    if not all(runner.is_done(plan.step(name)) for name in wanted):
        return []
    return choose(study, tuning, trials, evaluations)


def runner_of(plan: Plan, how: Executing, accept_code: bool = False) -> Runner:
    """A runner that also counts the code behind each command among what a step depends on."""
    paths = paths_of(plan)
    codes = {command: code_hash(command) for command in {step.command for step in plan.steps}}
    by_step = {step.name: codes[step.command] for step in plan.steps}
    ledger = read_ledger(how.out) if accept_code else {}
    accepted = {name: ledger[name].get("code", "") for name in by_step if name in ledger}
    return Runner(plan, Keys(plan, paths, by_step, accepted), how)


def paths_of(plan: Plan) -> dict[str, frozenset[str]]:
    """The options of each step that are paths.

    Raises:
        UserError: a step has no such command.
    """
    found = {}
    for step in plan.steps:
        try:
            found[step.name] = path_options(step.command)
        except UserError as error:
            raise UserError(f"Step {kind_of(step.name)}: {error}") from None
    return found


def one_of_each(plan: Plan) -> list[Step]:
    """A step for every command and set of options, so that each is parsed once."""
    seen = {(kind_of(step.name), step.command, *sorted(step.options)): step for step in plan.steps}
    return list(seen.values())


def foreseen_keys(plan: Plan, keys: Keys) -> dict[str, str]:
    """Every step's key, also of those whose needs are not made yet."""
    found: dict[str, str] = {}
    for step in plan.steps:
        found[step.name] = keys.key(step, found)
    return found
