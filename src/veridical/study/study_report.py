"""The report of a study, from its steps' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.eval.compare import evaluations_in
from veridical.eval.scores import fixed_width, read_scores
from veridical.report.curves import Rows
from veridical.report.study_page import write_study_page
from veridical.report.study_results import Effect, ShownArm, StudyPage, as_json
from veridical.runtime.descriptions import MetricDescription
from veridical.runtime.files import write_json
from veridical.runtime.run_files import LOG
from veridical.runtime.tables import Table
from veridical.study.arms import Level
from veridical.study.expanding import Cell
from veridical.study.laying_out import Laid, foreseen_keys, runner_of
from veridical.study.ledger import StepState
from veridical.study.outcome import (
    START,
    Scored,
    all_effects,
    concluded,
    interactions,
    primary_of,
    scored,
)
from veridical.study.plan import Plan, Step
from veridical.study.step_jobs import Executing
from veridical.study.study_file import Study
from veridical.study.tuning import metric_value

PAGE, FIGURES = "report.html", "study.json"


def write_study_report(laid: Laid, out: Path) -> Path:
    """Write `report.html`, `study.json` and the table `effects` of what is finished.

    Raises:
        UserError: the outcome names a metric that there is not, or a file was changed.
    """
    page = study_page(laid, out)
    write_study_page(page, out / PAGE)
    write_json(out / FIGURES, as_json(page))
    effects_table(page).write(out, "effects")
    return out / PAGE


def study_page(laid: Laid, out: Path) -> StudyPage:
    """Everything that the page shows."""
    study, outcome = laid.study, laid.study.outcome
    plan = laid.plan
    known = _known(plan, out)
    ledger, done = known.ledger, known.done
    found = {
        (step, cell.arm, cell.seed): folder
        for cell in laid.cells
        if laid.known
        for step, folder in _evaluated(laid, cell, done).items()
    }
    benchmarks = scored(found, _started(laid, done))
    evaluation, title, primary = primary_of(outcome, benchmarks)
    effects = all_effects(study, benchmarks)
    name = outcome.metric.partition("/")[0]
    main = [
        effect
        for effect in effects
        if (effect.evaluation, effect.benchmark, effect.metric.name)
        == (evaluation, name, primary.name)
    ]
    first = [b for b in benchmarks if (b.evaluation, b.benchmark.name) == (evaluation, name)]
    planned = [e for e in main if e.baseline != START]
    return StudyPage(
        study.name, study.question, study.base,
        [_arm(laid, arm, plan, known) for arm in study.arms],
        primary, title, outcome.difference, outcome.power,
        concluded(planned, outcome.difference),
        _others(effects, main),
        concluded(_headlines(effects, benchmarks), None),
        concluded([e for own in first for e in interactions(study, own)], None),
        _scores(study, benchmarks),
        [(t.arm, in_words(t.setting), t.value, t.chosen) for t in laid.tried],
        [(n, s.get("reason", "")) for n, s in ledger.items()
         if s["status"] == "failed" and n in {step.name for step in plan.steps}],
        sum(step.name not in done for step in plan.steps),
        known.outdated, len(plan.steps), out,
    )  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """What is known of a study's steps.

    Attributes:
        ledger: the states of all.
        current: of those that were finished as the study has them now. Other code alone doesn't
            matter, as for `--accept-code`.
        done: the current ones whose results are there. What they read may be gone by now, such as
            a trained model that was evaluated.
        outdated: how many were finished with other options or inputs.
    """

    ledger: Mapping[str, StepState]
    current: Mapping[str, StepState]
    done: set[str]
    outdated: int


def _known(plan: Plan, out: Path) -> _Known:
    runner = runner_of(plan, Executing(out), accept_code=True)
    keys, names = foreseen_keys(plan, runner.keys), {step.name for step in plan.steps}
    finished = {
        name: state
        for name, state in runner.ledger.items()
        if name in names and state["status"] == "finished"
    }
    current = {name: state for name, state in finished.items() if state["key"] == keys[name]}
    done = {name for name, state in current.items() if runner.is_whole(plan.step(name), state)}
    return _Known(runner.ledger, current, done, len(finished) - len(current))


def _headlines(effects: Sequence[Effect], benchmarks: Sequence[Scored]) -> list[Effect]:
    wanted = {own.benchmark.name: own.benchmark.description.headline for own in benchmarks}
    return [
        effect
        for effect in effects
        if effect.baseline == START and effect.metric.name == wanted[effect.benchmark]
    ]


def _scores(
    study: Study, benchmarks: Sequence[Scored]
) -> Sequence[tuple[str, MetricDescription, Mapping[str, float]]]:
    """Each arm's mean over seeds in every metric of every evaluation."""
    found = []
    for own in benchmarks:
        read = {arm: [read_scores(folder) for folder in own.of(arm).values()] for arm in study.arms}
        for metric in dict.fromkeys(m for runs in read.values() for run in runs for m in run):
            values = {
                arm: [run[metric]["value"] for run in runs if metric in run]
                for arm, runs in read.items()
            }
            known = {arm: [v for v in own_ if v is not None] for arm, own_ in values.items()}
            means = {arm: sum(v) / len(v) for arm, v in known.items() if v}
            found.append((own.evaluation, own.benchmark.description.metric(metric), means))
    return found


def _others(effects: Sequence[Effect], main: Sequence[Effect]) -> list[Effect]:
    """All other metrics against other arms, corrected metric by metric."""
    rest = [effect for effect in effects if effect not in main and effect.baseline != START]
    families: dict[tuple[str, str, str], list[Effect]] = {}
    for effect in rest:
        key = (effect.evaluation, effect.benchmark, effect.metric.name)
        families.setdefault(key, []).append(effect)
    return [one for family in families.values() for one in concluded(family, None)]


def _evaluated(laid: Laid, cell: Cell, done: set[str]) -> dict[str, Path]:
    """The folders of a cell's evaluations that are finished, by their step."""
    steps = {name: laid.expansion.step(cell, name) for name in laid.study.outcome.evaluations}
    return {
        name: step.output for name, step in steps.items() if step is not None and step.name in done
    }


def _started(laid: Laid, done: set[str]) -> dict[int, Path]:
    """The start's evaluations by seed."""
    name, found = laid.study.outcome.start, {}
    for cell in laid.cells if name else ():
        step = laid.expansion.step(cell, name)
        if step is not None and step.name in done:
            found[cell.seed] = step.output
    return found


def _arm(laid: Laid, arm: str, plan: Plan, known: _Known) -> ShownArm:
    study, done = laid.study, known.done
    own = study.arms[arm]
    setting = next((t.setting for t in laid.tried if t.chosen and t.arm == _tuned(laid, arm)), {})
    differs = {factor: level for factor, level in own.items() if factor not in setting}
    cells = [cell for cell in laid.cells if cell.arm == arm]
    values = {cell.seed: _value(laid, cell, done) for cell in cells}
    times = [_seconds(laid, cell, plan, known.current) for cell in cells]
    seconds = [time for time in times if time is not None]
    return ShownArm(
        arm,
        in_words(differs) or ("the base arm" if arm == study.base else ""),
        in_words(setting),
        values,
        sum(seconds) / len(seconds) if seconds else None,
        _log(laid, cells[0], plan, done) if cells else [],
    )


def _tuned(laid: Laid, arm: str) -> str:
    tuning = laid.study.tuning
    return arm if tuning is None else tuning.same_as.get(arm, arm)


def in_words(levels: Mapping[str, Level]) -> str:
    """Levels as "factor level, factor level"."""
    return ", ".join(f"{factor} {level}" for factor, level in levels.items())


def _value(laid: Laid, cell: Cell, done: set[str]) -> float | None:
    name = laid.study.outcome.metric.partition("/")[0]
    for folder in _evaluated(laid, cell, done).values():
        if name in evaluations_in(folder):
            return metric_value(folder, laid.study.outcome.metric)[0]
    return None


def _behind(plan: Plan, step: Step) -> dict[str, Step]:
    """A step and all that it needs, directly or not."""
    found: dict[str, Step] = {}
    waiting = [step]
    while waiting:
        own = waiting.pop()
        if own.name not in found:
            found[own.name] = own
            waiting += plan.needs(own)
    return found


def _seconds(laid: Laid, cell: Cell, plan: Plan, ledger: Mapping[str, StepState]) -> float | None:
    """What all steps took that a cell needs, shared ones included; None where one is missing."""
    steps: dict[str, Step] = {}
    for name in laid.study.outcome.evaluations:
        step = laid.expansion.step(cell, name)
        if step is not None:
            steps |= _behind(plan, step)
    taken = [ledger[name].get("seconds") for name in steps if name in ledger]
    known = [seconds for seconds in taken if seconds is not None]
    return sum(known) if known and len(known) == len(steps) else None


def _log(laid: Laid, cell: Cell, plan: Plan, done: set[str]) -> Rows:
    """The log of the last training that a cell's evaluations need."""
    for name in laid.study.outcome.evaluations:
        step = laid.expansion.step(cell, name)
        behind = _behind(plan, step).values() if step is not None else ()
        for own in behind:
            trains = own.command.startswith("train ") and own.name in done
            if trains and (own.output / LOG.name).is_file():
                return LOG.read(own.output)
    return []


def effects_table(page: StudyPage) -> Table:
    """The primary metric's effects."""
    header = ["arm", "compared with", "metric", "value", "other", "difference", "95% interval",
              "p (Holm)", "seeds", "conclusion"]  # fmt: skip
    body = [
        [e.arm, e.baseline, e.metric.name, fixed_width(e.arm_value).strip(),
         fixed_width(e.baseline_value).strip(), fixed_width(e.value, sign=True).strip(),
         f"[{fixed_width(e.low, sign=True).strip()}, {fixed_width(e.high, sign=True).strip()}]",
         "-" if e.p_holm is None else f"{e.p_holm:.4f}", str(e.seeds), e.conclusion]
        for e in page.effects
    ]  # fmt: skip
    return Table(header, body, 3)
