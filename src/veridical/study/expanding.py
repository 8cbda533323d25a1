"""A study's steps for every arm and seed; what several arms fill alike is one step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from veridical.runtime.errors import UserError
from veridical.study.arms import Level, shown_level
from veridical.study.plan import OptionValue, Plan, Step, check_plan
from veridical.study.study_file import Study, Template

PLACEHOLDER = re.compile(r"\{(\w+)(?:\+([0-9]{1,18}))?\}")
"""A name, or a name and a number that is added to what it stands for."""
LONGEST = 100
"""Letters of the levels in a step's name; longer ones end in a hash."""
SEED = "seed"


@dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        arm: its name.
        seed: its seed.
        levels: of all factors.
    """

    arm: str
    seed: int
    levels: Mapping[str, Level]


@dataclass
class Expansion:
    """Steps by what they depend on.

    Attributes:
        study: the study.
        out: its folder.
        steps: by name, in an order in which they could run.
        parts: for each cell and template the step's name; of alternatives, the one that applies.
    """

    study: Study
    out: Path
    steps: dict[str, Step] = field(default_factory=dict)
    parts: dict[tuple[str, int, str], str] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    def add(self, cell: Cell, names: Iterable[str]) -> None:
        """Add steps of a cell, where they apply to it, and what these read."""
        for name in names:
            if self._alternative(name, cell) is not None:
                self._added(name, cell)

    def step(self, cell: Cell, name: str) -> Step | None:
        """The step of a cell, by its template's name; None where none applies."""
        found = self.parts.get((cell.arm, cell.seed, name))
        return None if found is None else self.steps[found]

    def take(self, step: Step) -> None:
        """Keep a step, once.

        Raises:
            UserError: another one with other options has its name.
        """
        if self.steps.setdefault(step.name, step) != step:
            raise UserError(
                f"{self.study.name}: {step.name} would be the name of two steps with different "
                "options. Give its factors levels that differ in their first six digits."
            )

    def plan(self) -> Plan:
        """All steps.

        Raises:
            UserError: they are in each other's way.
        """
        about = {"study": self.study.name, "question": self.study.question}
        plan = Plan(Path.cwd(), tuple(self.steps.values()), about)
        check_plan(plan, self.study.name)
        return plan

    def _added(self, name: str, cell: Cell) -> Step:
        template = self._alternative(name, cell)
        if template is None:
            raise UserError(
                f"{self.study.name}: arm {cell.arm} has no step {name}: none with that name has a "
                "`when` that holds for it."
            )
        if name in self._open:
            raise UserError(
                f"{self.study.name}: steps wait for each other: {' -> '.join([*self._open, name])}."
            )
        self._open.append(name)
        options = self._options(template)
        filled = {key: self._filled(value, cell, name) for key, value in options.items()}
        self._open.pop()
        own = f"{name}{self._label(name, cell)}"
        written = "folder" if template.command == "world make" else "out"
        filled = {key: value for key, value in filled.items() if value is not None}
        step = Step(own, template.command, {**filled, written: str(self.out / "steps" / own)})
        self.take(step)
        self.parts[cell.arm, cell.seed, name] = own
        return step

    def _options(self, template: Template) -> dict[str, OptionValue]:
        """A template's options over the study's defaults for its command."""
        return {**self.study.defaults.get(template.command, {}), **template.options}

    def _alternative(self, name: str, cell: Cell) -> Template | None:
        found = [
            step
            for step in self.study.steps
            if step.name == name
            and all(cell.levels[factor] in levels for factor, levels in step.when.items())
        ]
        if len(found) > 1:
            raise UserError(
                f"{self.study.name}: arm {cell.arm} has {len(found)} steps {name}. Give each a "
                "`when` of its own, so that one applies."
            )
        return next(iter(found), None)

    def _filled(self, value: OptionValue, cell: Cell, step: str) -> OptionValue:
        """A value with what its placeholders stand for; one placeholder alone keeps its type."""
        if isinstance(value, Mapping):
            filled = {key: self._filled(item, cell, step) for key, item in value.items()}
            return {key: item for key, item in filled.items() if item is not None}
        if isinstance(value, list):
            return [self._filled(item, cell, step) for item in value]
        if not isinstance(value, str):
            return value
        alone = PLACEHOLDER.fullmatch(value)
        if alone is not None:
            return self._stands_for(alone, cell, step)
        return PLACEHOLDER.sub(lambda found: self._part(found, cell, step), value)

    def _part(self, found: re.Match[str], cell: Cell, step: str) -> str:
        """What a placeholder stands for within a text."""
        value = self._stands_for(found, cell, step)
        if value is None:
            raise UserError(
                f"{self.study.name}, step {step}: {found.string!r} needs a value for {found[0]}, "
                f"which is null in arm {cell.arm}."
            )
        return str(value)

    def _stands_for(self, found: re.Match[str], cell: Cell, step: str) -> OptionValue:
        name, added = found[1], found[2]
        if name == SEED or name in cell.levels or name in self.study.values:
            known = {**self.study.values, **cell.levels, SEED: cell.seed}[name]
            if any(_words(known)):  # a level may be what a step writes
                if name in self._open:
                    raise UserError(f"{self.study.name}, step {step}: {{{name}}} contains itself.")
                self._open.append(name)
                known = self._filled(known, cell, step)
                self._open.pop()
            if added is None:
                return known
            if isinstance(known, bool) or not isinstance(known, int):
                raise UserError(
                    f"{self.study.name}, step {step}: {found[0]}: {name} is not a number."
                )
            return known + int(added)
        if any(own.name == name for own in self.study.steps):
            made = self._added(name, cell)
            return str(made.output)
        known = ", ".join([SEED, *cell.levels, *self.study.values])
        steps = ", ".join(dict.fromkeys(own.name for own in self.study.steps))
        raise UserError(
            f"{self.study.name}, step {step}: there is no {{{name}}}; there is {known}, and the "
            f"steps {steps}."
        )

    def _label(self, name: str, cell: Cell) -> str:
        """The part of a step's name that tells it from those of other arms and seeds."""
        used = self._used(name, cell, frozenset())
        factors = [factor for factor in self.study.factors if factor in used]
        differing = [f for f in factors if cell.levels[f] != self.study.factors[f]]
        text = ",".join(f"{factor}={shown_level(cell.levels[factor])}" for factor in differing)
        exact = str([(factor, cell.levels[factor]) for factor in differing])
        plain = all(shown_level(cell.levels[f]) == str(cell.levels[f]) for f in differing)
        if len(text) > LONGEST or not (plain or _are_plain(cell.levels[f] for f in differing)):
            text = f"{text[:LONGEST]}-{sha256(exact.encode()).hexdigest()[:8]}"
        words = [text or self.study.base] if factors else []
        words += [f"seed{cell.seed}"] if SEED in used else []
        return "".join(f"/{word}" for word in words)

    def _used(self, name: str, cell: Cell, above: frozenset[str]) -> frozenset[str]:
        """The factors, and `seed`, that a step of a cell depends on, with what it reads."""
        template = self._alternative(name, cell)
        if template is None or name in above:
            return frozenset()
        chosen = {f for step in self.study.steps if step.name == name for f in step.when}
        found = set(chosen)
        for word in _words(self._options(template)):
            found |= self._behind(word, cell, above | {name})
        return frozenset(found)

    def _behind(self, word: str, cell: Cell, above: frozenset[str]) -> frozenset[str]:
        """The factors, and `seed`, that a placeholder depends on."""
        if word == SEED:
            return frozenset({SEED})
        if word not in cell.levels and word not in self.study.values:
            return self._used(word, cell, above)
        found = {word} & cell.levels.keys()
        for inner in _words({**self.study.values, **cell.levels}[word]):
            found |= self._behind(inner, cell, above)
        return frozenset(found)


def _are_plain(levels: Iterator[Level]) -> bool:
    return all(isinstance(level, bool | int | float) for level in levels)


def _words(value: OptionValue) -> Iterator[str]:
    """The names of all placeholders in a value."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _words(item)
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)
    elif isinstance(value, str):
        for found in PLACEHOLDER.finditer(value):
            yield found[1]


def expand(
    study: Study, out: Path, cells: Iterable[Cell], names: Iterable[str] | None = None
) -> Expansion:
    """The steps of some cells; all that apply to them if no names are given.

    Raises:
        UserError: a placeholder stands for nothing, or steps wait for each other.
    """
    expansion = Expansion(study, out)
    wanted = list(dict.fromkeys(step.name for step in study.steps) if names is None else names)
    for cell in cells:
        expansion.add(cell, wanted)
    return expansion
