"""Which step starts next: of those that are ready, the one with the longest chain behind it.

The same order foretells how long a plan takes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence

from veridical.study.plan import Plan, Step

FIRST = float("inf")
"""The length that a step counts with which is started again, or was begun already."""


class Queue:
    """The steps that are ready, longest chain first, and for the others how many they wait for.

    A chain is a step and what follows it up to the plan's end. Starting a long one late leaves
    workers idle at the end.

    Args:
        plan: the plan.
        steps: those of it that are run.
        made: names of steps that nobody has to wait for.
        first: names of steps that come before all others as soon as they are ready.
    """

    def __init__(
        self,
        plan: Plan,
        steps: Sequence[Step],
        made: Collection[str],
        first: Collection[str] = (),
    ) -> None:
        self._steps = {step.name: step for step in steps}
        self._numbers = {step.name: number for number, step in enumerate(steps)}
        self._open: dict[str, set[str]] = {}
        self._readers: dict[str, list[str]] = {}
        self._chains: Mapping[str, float] = {}
        self._ready: list[tuple[float, int, Step]] = []
        self._again = set(first)
        for step in steps:
            needs = {other.name for other in plan.needs(step) if other.name not in made}
            self._open[step.name] = needs
            for name in needs:
                self._readers.setdefault(name, []).append(step.name)
        for step in steps:
            if not self._open[step.name]:
                del self._open[step.name]
                self.put(step)

    def __len__(self) -> int:
        """How many steps are ready."""
        return len(self._ready)

    def weigh(self, seconds: Callable[[Step], float]) -> None:
        """Order by chains of these lengths from now on; steps with equal ones stay in order."""
        self._chains = self._chain_lengths(seconds)
        self._ready = [(self._length(step), n, step) for _, n, step in self._ready]
        heapq.heapify(self._ready)

    def take(self) -> Step:
        """The step to start next."""
        return heapq.heappop(self._ready)[2]

    def put(self, step: Step) -> None:
        """Put a step among those that are ready."""
        heapq.heappush(self._ready, (self._length(step), self._numbers[step.name], step))

    def again(self, step: Step) -> None:
        """Start a step again before all others: what waits for it has waited already."""
        self._again.add(step.name)
        self.put(step)

    def done(self, step: Step) -> None:
        """Let go those that waited for a step alone."""
        for name in self._readers.get(step.name, ()):
            if name in self._open:
                self._open[name].discard(step.name)
                if not self._open[name]:
                    del self._open[name]
                    self.put(self._steps[name])

    def waiting(self) -> list[Step]:
        """Those that were never ready."""
        return [self._steps[name] for name in self._open]

    def _length(self, step: Step) -> float:
        """Negative, as the smallest comes first."""
        return -(FIRST if step.name in self._again else self._chains.get(step.name, 0.0))

    def _chain_lengths(self, seconds: Callable[[Step], float]) -> dict[str, float]:
        """Seconds from each step's start to the end of the longest chain that begins with it."""
        lengths: dict[str, float] = {}
        for name in self._readers_first():
            after = (lengths[reader] for reader in self._readers.get(name, ()))
            lengths[name] = seconds(self._steps[name]) + max(after, default=0.0)
        return lengths

    def _readers_first(self) -> list[str]:
        """All steps, each behind those that read it."""
        left = {name: len(self._readers.get(name, ())) for name in self._steps}
        needs: dict[str, list[str]] = {}
        for name, readers in self._readers.items():
            for reader in readers:
                needs.setdefault(reader, []).append(name)
        found = [name for name, count in left.items() if not count]
        for name in found:  # it grows
            for other in needs.get(name, ()):
                if other in left:
                    left[other] -= 1
                    if not left[other]:
                        found.append(other)
        return found


def foretell_order(
    plan: Plan,
    steps: Sequence[Step],
    seconds: Mapping[str, float],
    workers: int,
    guess: Callable[[Step], float] | None = None,
) -> tuple[list[Step], float]:
    """In which order steps will start, and the seconds until all are done.

    Args:
        plan: the plan.
        steps: those of it that are left.
        seconds: that each takes, by name; one without is left out of the time.
        workers: steps at once.
        guess: the lengths that chains are made of; `seconds` if not set.
    """
    left = {step.name for step in steps}
    queue = Queue(plan, steps, {step.name for step in plan.steps} - left)
    queue.weigh(guess or (lambda step: seconds.get(step.name, 0.0)))
    order: list[Step] = []
    running: list[tuple[float, int, Step]] = []
    now = 0.0
    while queue or running:
        while queue and len(running) < max(1, workers):
            step = queue.take()
            order.append(step)
            heapq.heappush(running, (now + seconds.get(step.name, 0.0), len(order), step))
        now, _, ended = heapq.heappop(running)
        queue.done(ended)
    return order, now
