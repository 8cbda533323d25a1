"""One command from a model to an aligned one: build, train, evaluate before and after, report."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from veridical.runtime.descriptions import BenchmarkDescription, read_description
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text, real_path
from veridical.runtime.run_files import COMPARISON, SCORES, DifferenceRow, ScoreEntry
from veridical.runtime.runs import start_run
from veridical.runtime.yaml_text import read_yaml
from veridical.study.alignment import Evaluating, Sources, make_plan
from veridical.study.commands import check_steps, has_option, named_path
from veridical.study.keys import Keys
from veridical.study.ledger import read_ledger
from veridical.study.plan import HEAD, OUTPUTS, Plan, Step, read_plan, was_changed, write_plan
from veridical.study.recipe import find_recipe
from veridical.study.rehearsal import foretell
from veridical.study.running import Runner
from veridical.study.step_jobs import Executing

PLAN = "plan.yaml"
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9.-]*[a-z0-9])")
"""An option that a message names."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How the plan is run.

    Attributes:
        workers: steps at once.
        launcher: words that start several processes for the steps that allow it, such as "torchrun
            --nproc-per-node 8".
        measure: try the steps on a few rows first, to say how long and in how much memory.
        dry_run: write the plan, say what it would do, and stop.
        forget: start steps again that an earlier command started on another machine. Use it only if
            they have stopped, which this command can't check.
    """

    workers: int = 1
    launcher: str | None = None
    measure: bool = True
    dry_run: bool = False
    forget: bool = False


@dataclass(frozen=True)
class Aligned:
    """What came out.

    Attributes:
        model: the folder of the aligned model; None where the plan names none.
        scores: by the evaluation's folder name (`before`, `after`), benchmark and metric.
        differences: paired differences, after minus before.
        report: the page.
    """

    model: Path | None
    scores: dict[str, dict[str, dict[str, ScoreEntry]]]
    differences: list[DifferenceRow]
    report: Path | None


def align(
    out: Path,
    model: str | None = None,
    data: Path | None = None,
    recipe: str = "bdhs",
    judge: str | None = None,
    facts: Path | None = None,
    options: list[str] | None = None,
    evaluating: Evaluating = Evaluating(),
    execution: Execution = Execution(),
    seed: int = 0,
) -> Aligned:
    """Align MODEL on DATA: build, train, evaluate before and after, compare, report.

    Every step is one of the other commands, shown as it is run. OUT/plan.yaml has them all. Change
    it and run `veridical align --out OUT`: only what changed, and what reads it, is made again.
    Stopped and started again, it goes on.

    Args:
        out: folder for the run: `plan.yaml`, `steps.json`, `logs/`, a folder for each step, and
            `report.html`.
        model: hub name, folder, adapter folder or `embedded`. Without a model,
            the plan in OUT is run as it is.
        data: conversations with true answers, or what else the recipe takes. With `embedded`,
            scenes are drawn if not set.
        recipe: `bdhs`, `chair-dpo`, `dpo`, `fact-rlhf`, `mdpo`, `mpo`, `online-bdhs`,
            `rejection-sampling`, `rlaif`, `steerlm`, `demo`, `benchmarks`, or a YAML file.
        judge: who says which answer is better, for recipes that ask: `exact` (by --objects),
            `local:MODEL` or `endpoint:MODEL`; `exact` if not set and there are object lists.
        facts: JSON {image_id: [true sentences]}, for recipes that use them.
        options: options of single steps, such as train.learning_rate=1e-6 pairs.iterations=3, or of
            every step that has it: all.dtype=bfloat16.
        evaluating: how the result is evaluated.
        execution: how the plan is run.
        seed: random seed of every step that uses one.

    Returns:
        The scores before and after, and their differences.

    Raises:
        UserError: what is missing or contradicts the recipe, or what a step refuses.
    """
    out, data, facts, recipe = Path(out), _path(data), _path(facts), str(recipe)
    evaluating = replace(
        evaluating, images=_path(evaluating.images), objects=_path(evaluating.objects),
        vocabulary=_path(evaluating.vocabulary),
    )  # fmt: skip
    given = {
        "out": out, "model": model, "data": data, "recipe": recipe, "judge": judge, "facts": facts,
        "options": options, "evaluating": evaluating, "execution": execution, "seed": seed,
    }  # fmt: skip
    launcher = _launcher(execution.launcher)
    inputs = {
        name: path
        for name, path in {
            "data": data, "facts": facts, "objects": evaluating.objects,
            "vocabulary": evaluating.vocabulary,
        }.items()
        if path is not None
    }  # fmt: skip
    for name, path in inputs.items():
        if not path.is_file():
            raise UserError(f"--{name} {path} does not exist or is not a file. Check the path.")
    if model is None:
        plan = _plan_there(out, data)
    else:
        if not isinstance(model, str):
            raise UserError(
                "align runs each step as a process of its own, which can't be given a loaded "
                "model. Save it, and name its folder."
            )
        sources = Sources(model, data, judge, facts, evaluating, seed)
        plan = make_plan(find_recipe(recipe), sources, out, options or [])
        _keep_changes(out)
    paths = check_steps(plan, plan.steps)
    refuse_leftovers(plan, out)
    with start_run(out, "align", given, inputs) as run:
        if model is not None:
            write_plan(plan, out / PLAN, HEAD.format(out=out))
        how = Executing(out, execution.workers, launcher, forget=execution.forget)
        runner = Runner(plan, Keys(plan, paths), how)
        waiting = [step for step in plan.steps if not runner.is_done(step)]
        for line in tell_plan(plan, len(waiting), out):
            print(line, flush=True)
        if execution.measure and waiting:
            for line in foretell(plan, waiting, execution.workers):
                print(line, flush=True)
        if execution.dry_run:
            run.finish(steps=len(plan.steps), left=len(waiting))
            start = shlex.join(["veridical", "align", "--out", str(out)])
            print(f"Nothing was run. To start: {start}")
            return Aligned(None, {}, [], None)
        pages = [step for step in plan.steps if step.command == "report"]
        run_steps(runner, [step for step in plan.steps if step not in pages])
        run.finish(steps=len(plan.steps), made=len(waiting))
        # The page is about a run that is finished.
        run_steps(runner, pages)
    result = collect(plan)
    for line in describe(plan):
        print(line)
    if result.model is not None:
        print(f"The aligned model is in {result.model}.")
    if result.report is not None:
        print(f"Open {result.report}")
    return result


def run_steps(runner: Runner, steps: Sequence[Step]) -> None:
    """Run steps; options that a failed one names are the step's own, and this command's are not.

    Raises:
        UserError: as `Runner.run`, with how to set such an option here.
    """
    try:
        runner.run(steps)
    except UserError as error:
        commands = {step.name: step.command for step in steps}
        named = [
            f"{name}.{option}"
            for name, reason in runner.failed.items()
            for option in (found.replace("-", "_") for found in OPTION.findall(reason))
            if has_option(commands[name], option.partition(".")[0])  # --forget is this command's
        ]
        if not named:
            raise
        shown = " ".join(f"{name}=VALUE" for name in dict.fromkeys(named))
        raise UserError(f"{error}\nHere such options are set so: --options {shown}") from error


def _path(given: Path | None) -> Path | None:
    """A path of Python's callers, who may name it by a text."""
    return None if given is None else Path(given)


def _launcher(words: str | None) -> tuple[str, ...]:
    if not isinstance(words, str | None):
        raise UserError(
            f"The launcher is {words!r}; give one text, such as 'torchrun --nproc-per-node 8'."
        )
    try:
        return tuple(shlex.split(words or ""))
    except ValueError as error:
        raise UserError(f"--launcher {words!r} is not a command line: {error}.") from error


def _plan_there(out: Path, data: Path | None) -> Plan:
    """The plan of a folder.

    Raises:
        UserError: there is none, or DATA is given without a model.
    """
    if data is not None:
        raise UserError("--data is given without a MODEL. Name both, or neither to run a plan.")
    if not (out / PLAN).is_file():
        raise UserError(
            f"MODEL is missing, and {out} has no {PLAN} that could be run without. Name a model, "
            "such as `veridical align embedded`."
        )
    return read_plan(out / PLAN)


def _keep_changes(out: Path) -> None:
    """Refuse to write over a plan that somebody changed.

    Raises:
        UserError: somebody did.
    """
    path = out / PLAN
    if path.is_file() and was_changed(path):
        raise UserError(
            f"{path} was changed since it was written. `veridical align --out {out}`, without a "
            "model, runs it as it is; delete it to have it made anew."
        )


def refuse_leftovers(plan: Plan, out: Path) -> None:
    """Refuse a folder where another plan's steps left what the page would show as this one's.

    Raises:
        UserError: names the folders.
    """
    # Real paths, as the folder may be named from elsewhere than before: ../runs/x, /home/me/runs/x.
    own = {real_path(named_path(plan, str(step.output))) for step in plan.steps}
    lines = [shlex.split(state["command"]) for state in read_ledger(out).values()]
    written = {
        real_path(root / value)
        for root in {plan.folder, _folder_before(plan, out)}
        for words in lines
        for word, value in pairwise(words)
        if word.removeprefix("--") in OUTPUTS
    }
    shown = (place for place in written - own if place.is_relative_to(real_path(out)))
    left = sorted(str(place) for place in shown if place.exists())
    if left:
        raise UserError(
            f"{out} holds what steps of another plan made, and the page would show it as made by "
            f"this one. Delete {', '.join(left)}, or choose another --out."
        )


def _folder_before(plan: Plan, out: Path) -> Path:
    """Where relative paths of the plan started that lies in `out`; this one's if there is none."""
    path = out / PLAN
    content = read_yaml(read_text(path), str(path)) if path.is_file() else None
    folder = content.get("folder") if isinstance(content, dict) else None
    return Path(str(folder)) if folder else plan.folder


def tell_plan(plan: Plan, waiting: int, out: Path) -> list[str]:
    """What will be done, on what."""
    about = plan.about
    lines = [f"{about['recipe']}: {about['summary']}."] if "recipe" in about else []
    lines += [
        f"{name}: {about[name]}." for name in ("model", "data", "evaluation") if name in about
    ]
    done = len(plan.steps) - waiting
    here = f", of which {done} are done already" if done else ""
    return [*lines, f"{len(plan.steps)} steps{here}, in {out / PLAN}."]


def collect(plan: Plan) -> Aligned:
    """The scores and differences that a plan's steps wrote."""
    scores: dict[str, dict[str, dict[str, ScoreEntry]]] = {}
    differences: list[DifferenceRow] = []
    report = None
    for step in plan.steps:
        place = plan.folder / step.output
        if step.command == "eval compare":
            differences += COMPARISON.read(place)["differences"]
        elif step.command.startswith("eval"):
            found = [place, *sorted(place.iterdir())]
            for folder in (one for one in found if (one / SCORES.name).is_file()):
                read = SCORES.read(folder)
                scores.setdefault(place.name, {})[read["benchmark"]["name"]] = read["scores"]
        elif step.command == "report":
            report = step.output
    result = plan.about.get("result")
    return Aligned(Path(str(result)) if result else None, scores, differences, report)


def describe(plan: Plan) -> list[str]:
    """A line for each comparison and benchmark: its headline metric before and after."""
    lines = []
    for step in plan.steps:
        if step.command == "eval compare":
            content = COMPARISON.read(plan.folder / step.output)
            for entry in content["benchmarks"]:
                shown = read_description({**entry})
                lines += _described(shown, content["differences"])
    return lines


def _described(benchmark: BenchmarkDescription, rows: Sequence[DifferenceRow]) -> list[str]:
    metrics = [benchmark.headline] + [
        metric.name
        for metric in benchmark.metrics
        if metric.shown == "top" and metric.name != benchmark.headline
    ]
    found = {row["metric"]: row for row in rows if row["benchmark"] == benchmark.name}
    return [_difference(benchmark, found[metric]) for metric in metrics if metric in found]


def _difference(benchmark: BenchmarkDescription, row: DifferenceRow) -> str:
    metric = benchmark.metric(row["metric"])
    factor, sign = (100, "%") if metric.unit == "percent" else (1, "")
    digits = 1 if metric.unit in ("percent", "words") else 2

    def shown(value: float | None, plus: str = "") -> str:
        return "undefined" if value is None else f"{factor * value:{plus}.{digits}f}"

    interval = f" [{shown(row.get('low'), '+')}, {shown(row.get('high'), '+')}]"
    if row.get("low") is None and row["value"] is not None:
        interval = ", no interval: too few images"
    return (
        f"{benchmark.title[:1].upper()}{benchmark.title[1:]}, {metric.label.lower()}: "
        f"{row['baseline']} {shown(row.get('baseline_value'))}{sign}, "
        f"{row['arm']} {shown(row.get('arm_value'))}{sign} "
        f"(difference {shown(row['value'], '+')}{interval})"
    )
