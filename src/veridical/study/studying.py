"""`veridical study`: plan, run and look at a study."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.ranges import ABOVE_ZERO, COUNT, Range
from veridical.runtime.run_record import RECORD, is_alive, read_fields
from veridical.runtime.runs import start_run
from veridical.study.adopting import may_run
from veridical.study.cluster import Cluster, make_executor
from veridical.study.commands import check_steps
from veridical.study.laying_out import (
    Laid,
    folder_of,
    foreseen_keys,
    lay_out,
    one_of_each,
    runner_of,
)
from veridical.study.ledger import StepState
from veridical.study.ordering import foretell_order
from veridical.study.plan import Plan, Step, write_plan
from veridical.study.rates import Rates, in_words, kind_of, known_rates
from veridical.study.step_jobs import Executing
from veridical.study.study_file import find_study
from veridical.study.study_report import write_study_report

PLAN, TUNING = "plan.yaml", "tuning.json"
HEAD = """\
# The steps of `veridical study run {study} --out {out}`, each a public command with its options.
# This file is written anew by every run; change the study's file instead.
"""


def study_plan(
    study: str,
    out: Path | None = None,
    workers: int = 1,
    price: Annotated[float | None, ABOVE_ZERO] = None,
) -> None:
    """Print every step of a study: its key, whether it is done, and how long it will take.

    A step is one of the other commands. Arms and seeds that have a step's options, inputs and model
    in common share it. What is done comes first, then what is left, in the order in which it would
    start. Times are means of finished steps of the same kind, in this study's folder.

    Args:
        study: a YAML file, or the name of one that ships: `first`, `methods`, `rewards`,
            `evidence`.
        out: the study's folder; `runs/` and the file's name if not set.
        workers: steps at once, for the time that all of them take.
        price: of an hour of one worker, to print what the rest costs.
    """
    found = find_study(study)
    folder = folder_of(found, out)
    laid = lay_out(found, folder)
    plan = laid.plan
    check_steps(plan, one_of_each(plan))
    runner = runner_of(plan, Executing(folder))
    keys = foreseen_keys(plan, runner.keys)
    done = {step.name for step in plan.steps if runner.is_done(step)}
    rates = known_rates(runner.ledger)
    width = max(len(step.name) for step in plan.steps)
    order, _ = order_of(plan, done, rates, workers)
    for step in [*(step for step in plan.steps if step.name in done), *order]:
        state = runner.ledger.get(step.name)
        seconds = state.get("seconds") if state and step.name in done else rates.of(step)
        word = "done" if step.name in done else "to do"
        time = "not measured yet" if seconds is None else in_words(seconds)
        print(f"{keys[step.name][:12]}  {step.name:<{width}}  {step.command:<16} {word:<6} {time}")
    for line in summed_up(laid, plan, done, rates, workers, price):
        print(line)


def study_run(
    study: str,
    out: Path | None = None,
    workers: int = 1,
    shards: Annotated[int | None, COUNT] = None,
    retries: Annotated[int, Range(0)] = 1,
    cluster: Cluster = Cluster(),
    accept_code: bool = False,
    forget: bool = False,
) -> None:
    """Run a study: every step that is not done, then the report.

    A step is made again if its options, a file that it reads, the model, a step that it reads from
    or the code behind its command changed. One that fails leaves the rest running, and is reported
    at the end. Stopped or killed, the same command goes on; what is finished is kept.

    Args:
        study: a YAML file, or the name of one that ships: `first`, `methods`, `rewards`,
            `evidence`.
        out: folder for the study: `plan.yaml`, `steps.json`, `logs/`, `steps/`, `tuning.json`,
            `study.json`, `report.html`. `runs/` and the file's name if not set.
        workers: steps at once.
        shards: processes that each build or evaluation is shared out to, where its command can; as
            many as there are workers with nothing else to do if not set.
        retries: how often a step is started again whose process was killed.
        cluster: where steps run.
        accept_code: keep steps that were made by other code than today's.
        forget: start steps again that an earlier command started on another machine or executor.
            Use it only if they have stopped, which this command can't check.

    Raises:
        UserError: the file is not a study, a step's command refuses it, another machine may run the
            study, or steps failed.
    """
    found = find_study(study)
    folder = folder_of(found, out)
    if (host := _other_host(folder)) and not forget:
        raise UserError(
            f"{folder} is a study that was started on {host} and not ended there, and this machine "
            f"can't see whether it still runs. Go on with it on {host}, or, if it runs no longer, "
            "with --forget true."
        )
    options = {"study": study, "out": folder, "workers": workers, "shards": shards,
               "retries": retries, "cluster": cluster, "accept_code": accept_code,
               "forget": forget}  # fmt: skip
    inputs = {"study": Path(study)} if Path(study).is_file() else {}
    laid = lay_out(found, folder, accept_code)
    check_steps(laid.plan, one_of_each(laid.plan))
    with start_run(folder, "study run", options, inputs) as run:
        executor = make_executor(cluster, workers, folder, shards or 1)
        how = Executing(folder, workers, (), executor, shards, retries, cluster.gpus, forget)
        failures = []
        if not laid.known:
            failures += _run(laid.trial_plan, how, accept_code)
            laid = lay_out(found, folder, accept_code)
            if not laid.known:
                raise UserError("; ".join(failures) or "Tuning is not finished.")
        if laid.tried:
            write_json(folder / TUNING, [asdict(one) for one in laid.tried])
        write_plan(laid.plan, folder / PLAN, HEAD.format(study=study, out=folder))
        failures += _run(laid.plan, how, accept_code)
        if failures:
            run.fail(failures[-1])
        else:
            run.finish(steps=len(laid.plan.steps), arms=len(found.arms), seeds=len(found.seeds))
    page = write_study_report(laid, folder)
    if failures:
        raise UserError(f"{failures[-1]} The report shows what is finished: {page}")
    print(f"Open {page}")


def _run(plan: Plan, how: Executing, accept_code: bool) -> list[str]:
    """Run a plan's steps; what failed, in words."""
    runner = runner_of(plan, how, accept_code)
    try:
        runner.run(plan.steps)
    except UserError as error:
        if not runner.failed:
            raise
        return [str(error)]
    return []


def study_status(study: str, out: Path | None = None, workers: int = 1) -> None:
    """Print how far a study is: steps by kind, what runs, what failed and why, and the time left.

    Args:
        study: a YAML file, or the name of one that ships.
        out: the study's folder; `runs/` and the file's name if not set.
        workers: steps at once, for the time that is left.
    """
    found = find_study(study)
    folder = folder_of(found, out)
    laid = lay_out(found, folder)
    plan = laid.plan
    runner = runner_of(plan, Executing(folder))
    done = {step.name for step in plan.steps if runner.is_done(step)}
    runs = _is_running(folder)
    states = {step.name: state_of(step, runner.ledger, done, runs) for step in plan.steps}
    kinds = list(dict.fromkeys(kind_of(step.name) for step in plan.steps))
    width = max(map(len, kinds))
    for kind in kinds:
        own = [states[step.name] for step in plan.steps if kind_of(step.name) == kind]
        parts = [f"{own.count(word)} {word}" for word in WORDS if word in own]
        print(f"{kind:<{width}}  {', '.join(parts)}")
    for step in plan.steps:
        if states[step.name] == "failed":
            reason = runner.ledger[step.name].get("reason", "")
            print(f"{step.name} failed: {reason} (log: {runner.log(step.name)})")
    host = _other_host(folder)
    unseen = f"was started on {host}; whether it runs can be seen there alone"
    print(f"The command {unseen if host else 'runs now' if runs else 'does not run now'}.")
    for line in summed_up(laid, plan, done, known_rates(runner.ledger), workers, None):
        print(line)


def study_report(study: str, out: Path | None = None) -> None:
    """Write the report of what is finished: the factor table, effects with intervals, and costs.

    Args:
        study: a YAML file, or the name of one that ships.
        out: the study's folder; `runs/` and the file's name if not set.
    """
    found = find_study(study)
    folder = folder_of(found, out)
    laid = lay_out(found, folder, accept_code=True)
    print(f"Results: {write_study_report(laid, folder)}")


WORDS = ("done", "running", "failed", "changed", "to do")


def state_of(step: Step, ledger: Mapping[str, StepState], done: set[str], runs: bool) -> str:
    """One of `WORDS`; `runs` says whether the study's command runs."""
    if step.name in done:
        return "done"
    state = ledger.get(step.name)
    if state is None:
        return "to do"
    if state["status"] == "running":
        alive = any(map(may_run, state.get("jobs") or []))
        return "running" if alive or runs else "to do"
    return "failed" if state["status"] == "failed" else "changed"


def _is_running(folder: Path) -> bool:
    if not (folder / RECORD).is_file():
        return False
    fields = read_fields(folder)
    return fields.get("status") == "running" and is_alive(fields.get("process") or {})


def _other_host(folder: Path) -> str:
    """The machine on which a study was started that has not ended; "" if it is this one."""
    fields = read_fields(folder) if (folder / RECORD).is_file() else {}
    process = fields.get("process")
    host = str(process["host"]) if process else ""
    elsewhere = fields.get("status") == "running" and host != socket.gethostname()
    return host if elsewhere else ""


def order_of(plan: Plan, done: set[str], rates: Rates, workers: int) -> tuple[list[Step], float]:
    """The steps that are left, in the order in which they would start, and how long they take."""
    left = [step for step in plan.steps if step.name not in done]
    seconds = {step.name: value for step in left if (value := rates.of(step)) is not None}
    return foretell_order(plan, left, seconds, workers, rates.guess)


def summed_up(
    laid: Laid, plan: Plan, done: set[str], rates: Rates, workers: int, price: float | None
) -> list[str]:
    """How many steps are done and left, how long the rest takes and what it costs."""
    left = [step for step in plan.steps if step.name not in done]
    seconds = {step.name: value for step in left if (value := rates.of(step)) is not None}
    arms, seeds = len(laid.study.arms), len(laid.study.seeds)
    cells = re.sub(r" 1 (\w+)s", r" 1 \1", f" {arms} arms, {seeds} seeds")[1:]
    lines = [f"{cells}: {len(plan.steps)} steps, {len(done)} done, {len(left)} to do."]
    if not laid.known:
        lines.append(
            "Tuning comes first. What follows it is shown with the first setting of each arm."
        )
    if left:
        missing = len(left) - len(seconds)
        without = f", without {missing} steps that were not measured yet" if missing else ""
        total, (_, together) = sum(seconds.values()), order_of(plan, done, rates, workers)
        lines.append(
            f"Left: about {in_words(total)} of work, {in_words(together)} with {workers} at "
            f"once{without}."
        )
        if price is not None:
            lines.append(f"That costs about {total / 3600 * price:.2f} at {price:g} an hour.")
    return lines
