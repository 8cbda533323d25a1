"""A plan: public commands with their options, in one file that people can read and change.

A step is what can be typed by hand. Which steps it waits for is seen from its paths: it reads what
another one writes. So a plan needs no other description of its order, and whoever makes one (a
recipe, a study) only lists commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text, write_text_atomic
from veridical.runtime.yaml_text import read_yaml

OptionValue: TypeAlias = Any
"""A value in YAML's types."""
NAME = re.compile(r"[\w-][\w.=,-]*(/[\w-][\w.=,-]*)*")
OUTPUTS = ("out", "folder")
"""The options that name what a command writes."""
MODELS = ("model", "reference_model")
"""Options that name a model, which may be one of a hub."""


@dataclass(frozen=True)
class Step:
    """One public command with its options.

    Attributes:
        name: in the plan; also the name of its log.
        command: its words, such as "build bdhs".
        options: by the names that a YAML file for the command has, paths as they would be typed.
    """

    name: str
    command: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The folder or file that it writes."""
        return Path(next(str(self.options[name]) for name in OUTPUTS if name in self.options))

    def words(self) -> list[str]:
        """The command as it is typed, without `veridical`."""
        return [*self.command.split(), *self.option_words()]

    def option_words(self) -> list[str]:
        """Its options as they are typed."""
        return [
            word
            for name, value in self.options.items()
            if value is not None
            for word in _words(name, value)
        ]

    def shown(self) -> str:
        """The whole command line, to be copied into a shell."""
        return shlex.join(["veridical", *self.words()])

    def reads(self, other: Step) -> bool:
        """Whether one of its options names what another step writes.

        A report also reads what lies anywhere in the folders that it names.
        """
        texts = [
            text
            for name, value in self.options.items()
            if name not in OUTPUTS
            for text in texts_of(value)
        ]
        if self.command == "report" and any(lies_in(str(other.output), Path(t)) for t in texts):
            return True
        return any(lies_in(text, other.output) for text in texts)


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which they could run one after another.

    Attributes:
        folder: where its relative paths start.
        steps: all of them.
        about: what it was made from, for people.
    """

    folder: Path
    steps: tuple[Step, ...]
    about: Mapping[str, OptionValue] = field(default_factory=dict)

    def needs(self, step: Step) -> list[Step]:
        """The steps whose output a step reads."""
        if step.command == "report":  # it also reads what lies in the folders that it names
            return [other for other in self.steps if other is not step and step.reads(other)]
        return [other for other in _written_at(self._by_output, step) if other is not step]

    def step(self, name: str) -> Step:
        """One step by its name."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Step]:
        return {step.name: step for step in self.steps}

    @cached_property
    def _by_output(self) -> Mapping[Path, Step]:
        return {step.output: step for step in self.steps}


def _written_at(by_output: Mapping[Path, Step], step: Step) -> list[Step]:
    """The steps that write the places, or what is around them, that a step's options name."""
    found: dict[str, Step] = {}
    for name, value in step.options.items():
        for text in texts_of(value) if name not in OUTPUTS else ():
            place = Path(text)
            for around in (place, *place.parents):
                if around in by_output:
                    found[by_output[around].name] = by_output[around]
    return list(found.values())


HEAD = """\
# The steps of `veridical align`, each a public command with its options.
# Change any of them and run `veridical align --out {out}`: only what changed, and what reads it, is
# made again. Relative paths start at `folder`.
"""
WRITTEN = "# as written: "
"""What stands before the hash of an unchanged plan, in its last line."""


def write_plan(plan: Plan, path: Path, head: str = "") -> None:
    """Write a plan as YAML; its last line lets `was_changed` tell whether anybody edited it."""
    steps = [
        {"name": step.name, "command": step.command, "options": dict(step.options)}
        for step in plan.steps
    ]
    content = {"folder": str(plan.folder), "about": dict(plan.about), "steps": steps}
    text = head + yaml.dump(content, sort_keys=False, allow_unicode=True, width=96)
    write_text_atomic(path, f"{text}{WRITTEN}{_digest(text)}\n")


def was_changed(path: Path) -> bool:
    """Whether a plan is another than `write_plan` left it."""
    text, found, digest = read_text(path).rpartition(WRITTEN)
    return not found or digest.strip() != _digest(text)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        UserError: it is not YAML of that form, two steps have one name or write to the same place,
            or one reads what a later one writes.
    """
    content = read_yaml(read_text(path), str(path))
    steps = content.get("steps") if isinstance(content, dict) else None
    if not isinstance(steps, list) or not steps:
        raise UserError(f"{path} is not a plan: it has to have `steps`, a list of commands.")
    made = tuple(step_of(row, f"{path}, step {n}") for n, row in enumerate(steps, start=1))
    about = content.get("about") or {}
    if not isinstance(about, dict):
        raise UserError(f"{path}: about has to be a mapping.")
    plan = Plan(Path(str(content.get("folder") or Path.cwd())), made, about)
    check_plan(plan, str(path))
    return plan


def step_of(row: object, place: str) -> Step:
    """One step of a file.

    Raises:
        UserError: a field is missing or of another form.
    """
    if not isinstance(row, dict):
        raise UserError(f"{place} has to be a mapping of name, command and options.")
    name, command, options = row.get("name"), row.get("command"), row.get("options") or {}
    for field_, value in (("name", name), ("command", command)):
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{place}: {field_} has to be a text.")
    assert isinstance(name, str) and isinstance(command, str)
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise UserError(f"{place}, {name}: options have to be a mapping of names to values.")
    if unknown := sorted(map(str, row.keys() - {"name", "command", "options"})):
        raise UserError(f"{place}, {name}: there is no field {unknown[0]} of a step.")
    if not NAME.fullmatch(name):
        raise UserError(f"{place}: the name {name!r} may have letters, digits, - _ and / only.")
    options = {key.replace("-", "_"): value for key, value in options.items()}
    if not any(options.get(output) for output in OUTPUTS):
        raise UserError(f"{place}, {name}: options need an `out`, the folder or file to write.")
    return Step(name, " ".join(command.split()), options)


def check_plan(plan: Plan, place: str) -> None:
    """Refuse a plan whose steps are in each other's way.

    Raises:
        UserError: says which.
    """
    names: set[str] = set()
    outputs: dict[Path, Step] = {}
    for step in plan.steps:
        if step.name in names:
            raise UserError(f"{place}: two steps are called {step.name}. Rename one.")
        if step.output in outputs:
            raise UserError(
                f"{place}: {outputs[step.output].name} and {step.name} both write to "
                f"{step.output}. Give each its own out."
            )
        if step.command != "report" and step.reads(step):  # a page lies in what it is about
            raise UserError(
                f"{place}: {step.name} reads from {step.output}, which it writes itself. Name what "
                "another step made."
            )
        names.add(step.name)
        outputs[step.output] = step
    for step in plan.steps:
        for around in step.output.parents:
            if around in outputs:
                raise UserError(
                    f"{place}: {step.name} writes to {step.output}, inside what "
                    f"{outputs[around].name} writes. Give it an out beside that."
                )
    numbers = {step.name: number for number, step in enumerate(plan.steps)}
    for step in plan.steps:
        for other in plan.needs(step):
            if numbers[other.name] > numbers[step.name]:
                if step in plan.needs(other):
                    raise UserError(
                        f"{place}: {step.name} and {other.name} read what the other writes, so "
                        "neither can begin. Let one of them read something else."
                    )
                raise UserError(
                    f"{place}: {step.name} reads what {other.name} writes, which comes after it. "
                    "Put it behind."
                )


def texts_of(value: OptionValue) -> Iterator[str]:
    """Every text in a value that may be a path or a model; `local:` and the like are taken off."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item)
    elif isinstance(value, str | Path):
        yield bare(str(value))


def bare(text: str) -> str:
    """The path or name behind a judge's kind."""
    kind, colon, rest = text.partition(":")
    return rest if colon and kind in ("local", "reward") else text


def lies_in(text: str, place: Path) -> bool:
    """Whether a text names a place or something within it."""
    try:
        return Path(text).is_relative_to(place)
    except ValueError:
        return False


def _words(name: str, value: OptionValue) -> Iterator[str]:
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _words(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        yield option
        yield from (_spelled(item) for item in value)
    else:
        yield from (option, _spelled(value))


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def named(steps: Sequence[Step]) -> str:
    """The steps' names, for a sentence."""
    return ", ".join(step.name for step in steps)
