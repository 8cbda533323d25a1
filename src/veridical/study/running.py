"""A plan's steps run by an executor; what is finished is not made again."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veridical.cli.dispatch import run_command
from veridical.runtime.errors import UserError
from veridical.runtime.run_record import RECORD, read_record
from veridical.study.adopting import refuse_unseen, tokens_of, under_way
from veridical.study.commands import LIGHT, makes_shards
from veridical.study.executing import Ended, Executor, Here, Job, last_line, last_words
from veridical.study.keys import Keys
from veridical.study.ledger import Ledger, Status, StepState
from veridical.study.ordering import Queue
from veridical.study.plan import Plan, Step, named
from veridical.study.rates import kind_of, known_rates
from veridical.study.step_folders import is_whole, make_way, place_of
from veridical.study.step_jobs import Executing, Started, has_launcher, how_lost, jobs_of, shards_of
from veridical.study.terminal import Terminal


@dataclass
class Runner:
    """Runs a plan's steps.

    Attributes:
        plan: the plan.
        keys: of its steps.
        how: how they are run.
        made: keys of the steps that are finished.
        failed: why steps failed, by name.
    """

    plan: Plan
    keys: Keys
    how: Executing
    made: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    executor: Executor = field(init=False)
    _terminal: Terminal = field(init=False)
    _running: dict[str, Started] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _done: dict[str, bool] = field(default_factory=dict)
    _lost: dict[str, int] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)
    _whole: set[str] = field(default_factory=set)
    _measured: set[tuple[str, str]] = field(default_factory=set)
    _since: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.executor = self.how.executor or Here(self.how.workers)
        self._terminal = Terminal(self.executor.clock)
        self._ledger = Ledger(self.how.out)

    @property
    def ledger(self) -> Mapping[str, StepState]:
        """What is known of the steps."""
        return self._ledger.states

    def is_done(self, step: Step) -> bool:
        """Whether a step is finished with what it depends on now, as far as that is known."""
        if step.name not in self._done:
            done = all(self.is_done(other) for other in self.plan.needs(step))
            self._done[step.name] = done and self._is_here(step)
        return self._done[step.name]

    def _is_here(self, step: Step) -> bool:
        """Whether a step whose needs are made is finished; then its key counts as made."""
        state = self.ledger.get(step.name)
        if state is None or state["key"] != self.key(step) or not self.is_whole(step, state):
            return False
        self.made[step.name] = state["key"]
        return True

    def key(self, step: Step) -> str:
        """The key of a step whose needs are made; files are read once."""
        if step.name not in self._keys:
            self._keys[step.name] = self.keys.key(step, self.made)
        return self._keys[step.name]

    def run(self, steps: Sequence[Step]) -> None:
        """Run steps, those first that others wait for; what is finished is passed over.

        A step that fails leaves those running that do not need it.

        Raises:
            UserError: steps failed; the message has what they said and where their logs are.
        """
        for step in steps:
            with contextlib.suppress(UserError):  # it is told when the step's turn comes
                self.is_done(step)
        queue = Queue(self.plan, steps, self.made, under_way(self.ledger))
        self._weigh(queue)
        try:
            while queue or self._running:
                self._start_ready(queue)
                if self._running:
                    for ended in self.executor.wait():
                        self._end(ended, queue)
                    self._show()
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            self.executor.stop(signal.SIGINT if interrupted else signal.SIGTERM)
            self._note_stopped()
            raise
        finally:
            self._ledger.close()
        if self.failed:
            waiting = queue.waiting()
            left = f" Not started: {named(waiting)}." if waiting else ""
            told = " ".join(
                f"{name} failed: {reason} (log: {self.log(name)})."
                for name, reason in self.failed.items()
            )
            raise UserError(f"{told}{left} What is finished is kept; start again to go on.")

    def _note_stopped(self) -> None:
        """Note that nothing runs any more, so that any machine may go on."""
        for name in self._running:
            self._ledger.note(name, {**self.ledger[name], "jobs": []})

    def _weigh(self, queue: Queue) -> None:
        """Order what is ready by what is known of how long steps take."""
        rates = known_rates(self.ledger)
        queue.weigh(rates.guess)

    def _start_ready(self, queue: Queue) -> None:
        """Start what is ready, as far as there is room; what is here already makes more ready."""
        kept: list[Step] = []
        starting: list[tuple[Step, list[Job]]] = []
        chosen: list[Job] = []
        while queue:
            step = queue.take()
            try:
                is_here = self._is_here(step)
            except UserError as error:  # as a record that cannot be read
                self._not_started(step, error)
                continue
            if is_here:
                self._say(f"{step.name}: here already")
                queue.done(step)
                continue
            if self._runs_in_this_process(step):
                self._run_here(step)
                if step.name in self.made:
                    queue.done(step)
                continue
            try:
                if self._adopt(step):
                    continue
            except UserError as error:
                self._not_started(step, error)
                continue
            jobs = self._shared_out(step, chosen, len(queue) + 1)
            if not self.executor.room([*chosen, *jobs]):
                kept.append(step)
                break
            starting.append((step, jobs))
            chosen += jobs
        for step in kept:
            queue.put(step)
        if starting:
            self._start(starting)

    def _runs_in_this_process(self, step: Step) -> bool:
        return step.command in LIGHT and self.plan.folder == Path.cwd()

    def _start(self, starting: Sequence[tuple[Step, list[Job]]]) -> None:
        """Start the jobs of steps together, so that an executor can make one array of them."""
        starting = [(step, jobs) for step, jobs in starting if self._has_way(step)]
        if not starting:
            return
        for step, jobs in starting:
            self._note(step, "running", made_folder=not self._place(step).exists())
            self._say(f"{step.name}: {step.shown()}")
            sizes = {job.log: job.log.stat().st_size if job.log.exists() else 0 for job in jobs}
            self._running[step.name] = Started(step, self.key(step), jobs, sizes)

        def note(tokens: list[Any]) -> None:
            left = iter(tokens)
            for step, jobs in starting:
                self._note(step, "running", jobs=[next(left) for _ in jobs])

        try:
            self.executor.start([job for _, jobs in starting for job in jobs], note)
        except UserError as error:  # as where Slurm takes no more jobs
            if len(self._running) == len(starting):
                raise
            for step, _ in starting:  # the others run on
                del self._running[step.name], self._since[step.name]
                self._not_started(step, error)
                self._note(step, "failed", reason=self.failed[step.name])

    def _adopt(self, step: Step) -> bool:
        """Wait for what runs still of a step since this command was killed.

        No folder is removed, and no shard started a second time, beside a process that writes
        there. What the step lacks then is made when all have ended.

        Raises:
            UserError: it may run where this command can't see it.
        """
        if step.name in self._begun:  # by this command, which knows how its jobs ended
            return False
        self._begun.add(step.name)
        state = self.ledger.get(step.name)
        tokens = tokens_of(state)
        if state is None or not tokens:
            return False
        if not self.how.forget:
            refuse_unseen(self.executor, tokens)
        jobs = self._jobs(step, len(tokens))
        alive = self.executor.adopt(jobs, tokens)
        if not alive:
            return False
        same = state["key"] == self.key(step)
        as_before = "" if same else " as it was before it changed"
        self._say(f"{step.name}: runs still{as_before}; waiting for it")
        starts = dict.fromkeys([job.log for job in jobs], 0)
        gone = [Ended(job, None, 0.0) for job in jobs if job not in alive]
        self._since[step.name] = None
        self._running[step.name] = Started(step, state["key"], jobs, starts, gone, adopted=True)
        return True

    def _shared_out(self, step: Step, chosen: Sequence[Job], ready: int) -> list[Job]:
        """The processes of a step that starts beside `chosen`, while `ready` steps could start."""
        if step.name in self._whole:
            return self._jobs(step, 1)
        running = sum(len(one.jobs) - len(one.ended) for one in self._running.values())
        idle = self.how.workers - running - len(chosen)
        jobs = self._jobs(step, shards_of(self.how, step, idle, ready))
        while (
            self.how.shards is None and len(jobs) > 1 and not self.executor.fits([*chosen, *jobs])
        ):
            jobs = self._jobs(step, len(jobs) - 1)  # as where there are fewer GPUs than workers
        return jobs

    def _jobs(self, step: Step, count: int) -> list[Job]:
        """The processes of a step, of which each makes one of `count` shards."""
        return jobs_of(self.how, self.plan, step, count, step.name in self._whole)

    def _run_here(self, step: Step) -> None:
        """Run a command that loads no model in this process, which has the libraries already."""
        if not self._has_way(step):
            return
        self._note(step, "running", made_folder=not self._place(step).exists())
        self._say(f"{step.name}: {step.shown()}")
        failed, log = "", self.log(step.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            log.open("a", encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            try:
                run_command(step.words())
            except UserError as error:
                failed = str(error).rstrip(".")
                print(f"veridical: {error}", file=file)
        self._note_end(step, failed)

    def _end(self, ended: Ended, queue: Queue) -> None:
        """Take in how a job ended; with its last job the step ends."""
        started = self._running[ended.job.step]
        started.ended.append(ended)
        if len(started.ended) < len(started.jobs):
            return
        step = started.step
        del self._running[step.name]
        if started.key != self.key(step):
            queue.again(step)  # what ended was begun before the step changed
            return
        worst = started.worst()
        if worst.lost and self.is_whole(step, {**self.ledger[step.name], "status": "running"}):
            worst = Ended(worst.job, 0, worst.seconds)  # lost after all was written
        lost = self._lost.get(step.name, 0)
        if worst.lost and (started.adopted or lost < self.how.retries):
            self._lost[step.name] = lost + (not started.adopted)
            self._say(f"{step.name}: lost ({how_lost(worst)}); it is started again")
            queue.again(step)
            return
        failed = ""
        if worst.status != 0:
            log = worst.job.log
            failed = last_words(log, started.log_start[log], worst)
        elif self._lacks_result(started):
            if self._is_shared(started):  # as where the shard was killed that put it together
                self._whole.add(step.name)
                self._say(f"{step.name}: no shard wrote the result; it runs in one process")
                queue.again(step)
                return
            failed = f"it ended without an error, and {self._place(step)} holds no finished run"
        self._note_end(step, failed, started.ended)
        if not failed:
            queue.done(step)
            if (kind := (kind_of(step.name), step.command)) not in self._measured:
                self._measured.add(kind)
                self._weigh(queue)

    def _note_end(self, step: Step, failed: str, ended: Sequence[Ended] = ()) -> None:
        """Note how a step ended; `failed` is why it failed, "" if it did not.

        The seconds of processes that shared a step out are added up: they are what it costs.
        """
        if failed:
            self.failed[step.name] = failed
        else:
            self.made[step.name] = self.key(step)
        began, taken = self._since.pop(step.name), ""
        seconds = None if began is None else self.executor.clock() - began
        if seconds is not None:
            taken = f" after {seconds:.0f} s" if failed else f" in {seconds:.0f} s"
            if len(ended) > 1:
                seconds = sum(one.seconds for one in ended)
        self._note(step, "failed" if failed else "finished", seconds, failed)
        self._say(f"{step.name}: {'failed' if failed else 'done'}{taken}")

    def _has_way(self, step: Step) -> bool:
        """Make way for a step; where that can't be, the step failed, and the others run on.

        A step that goes on with what an earlier command left stays one of the code that made that,
        and how long it takes in all is not known.
        """
        try:
            make_way(step, self._place(step), self.ledger.get(step.name), self.key(step))
        except UserError as error:
            self._not_started(step, error)
            return False
        goes_on = (self._place(step) / RECORD).is_file()
        self._since.setdefault(step.name, None if goes_on else self.executor.clock())
        if not goes_on:
            self.keys.renew(step)
            self._keys.pop(step.name, None)
        return True

    def _not_started(self, step: Step, why: UserError) -> None:
        """Let a step fail that can't be started.

        What is known of it stays as it was: its folder still holds what that describes.
        """
        self.failed[step.name] = str(why).rstrip(".")
        log = self.log(step.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            print(f"veridical: {why}", file=file)
        self._say(f"{step.name}: not started: {why}")

    def _place(self, step: Step) -> Path:
        return place_of(self.plan, step)

    def is_whole(self, step: Step, state: StepState) -> bool:
        """Whether what a step wrote is there, whatever it was made with."""
        return is_whole(self._place(step), state)

    def _lacks_result(self, started: Started) -> bool:
        """Whether a record is missing that says the step finished; shared steps all have one."""
        record = self._place(started.step) / RECORD
        if not record.is_file():
            return self._is_shared(started)
        return read_record(record.parent).status != "finished"

    def _is_shared(self, started: Started) -> bool:
        """Whether several processes made a step, each a part."""
        step = started.step
        launched = has_launcher(self.how, step) and step.name not in self._whole
        return len(started.jobs) > 1 or (launched and makes_shards(step))

    def _note(
        self,
        step: Step,
        status: Status,
        seconds: float | None = None,
        reason: str = "",
        made_folder: bool | None = None,
        jobs: list[Any] | None = None,
    ) -> None:
        old = self.ledger.get(step.name)
        state: StepState = {"key": self.key(step), "status": status, "command": step.shown()}
        if code := self.keys.code(step):
            state["code"] = code
        if seconds is not None:
            state["seconds"] = round(seconds, 1)
        if reason:
            state["reason"] = reason
        if made_folder or (old is not None and old.get("made_folder")):
            state["made_folder"] = True
        if jobs is not None:
            state["jobs"] = jobs
        self._ledger.note(step.name, state)

    def log(self, name: str) -> Path:
        """A step's log."""
        return self.how.log(name)

    def _show(self) -> None:
        """Keep the last line of the log of the step that runs in sight."""
        if self._running:
            started = next(iter(self._running.values()))
            log = started.jobs[0].log
            self._terminal.show(
                lambda: f"{started.step.name}: {last_line(log, started.log_start[log])}"
            )

    def _say(self, text: str) -> None:
        self._terminal.say(text)
