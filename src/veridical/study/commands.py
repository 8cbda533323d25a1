"""What the command line knows of a step's command, asked before anything runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from veridical.cli import signatures
from veridical.cli.commands import COMMANDS
from veridical.cli.dispatch import find_function
from veridical.cli.named_files import check_named_file, is_path
from veridical.cli.signatures import Option
from veridical.cli.stand_ins import without_libraries
from veridical.cli.words import label
from veridical.runtime.errors import UserError
from veridical.runtime.local_code import take_imports
from veridical.study.plan import MODELS, OUTPUTS, Plan, Step, lies_in, texts_of

OWN = ("align", "study plan", "study run", "study status", "study report")
"""Commands that are plans themselves."""
LIGHT = ("data split", "eval compare", "report", "world make")
"""Commands that load no model and take seconds."""
IMPORT = "import"
"""The option of every command that names a Python file of one's own."""


def check_steps(plan: Plan, steps: Sequence[Step]) -> dict[str, frozenset[str]]:
    """Refuse steps that their commands would refuse at once, and files that are missing.

    Returns:
        For each step's name the options that are paths.

    Raises:
        UserError: names the step, and what its command says.
    """
    paths = {}
    with without_libraries():
        for step in steps:
            try:
                paths[step.name] = _checked(plan, step)
            except UserError as error:
                raise UserError(f"Step {step.name}: {error}") from None
    return paths


def _checked(plan: Plan, step: Step) -> frozenset[str]:
    if step.command not in COMMANDS or step.command in OWN:
        raise UserError(
            f"there is no command {step.command!r} for a plan. `veridical --help` lists all."
        )
    command = COMMANDS[step.command]
    function = find_function(command)
    from veridical.cli import parsing  # jsonargparse, which help pages do without

    options = signatures.read_options(function)
    program = f"veridical {step.command}"
    words, files = take_imports(step.option_words())
    if missing := next((f for f in files if not named_path(plan, str(f)).is_file()), None):
        raise UserError(f"--import {missing} does not exist.")
    parsing.parse(program, function, options, command.positionals, words)
    paths = frozenset({IMPORT, *(name for name, option in options.items() if is_path(option))})
    for name in sorted(paths - set(OUTPUTS)):
        for text in texts_of(step.options.get(name)):
            if not any(lies_in(text, other.output) for other in plan.steps):
                shown = label(name, command.positionals)
                check_named_file(name, named_path(plan, text), shown)
    _check_models(plan, step)
    return paths


def _check_models(plan: Plan, step: Step) -> None:
    """Refuse a model that can only be a folder, and that is not here and nobody makes.

    Raises:
        UserError: names the option and the folder.
    """
    for name, value in step.options.items():
        for text in texts_of(value) if name in (*MODELS, "judge") else ():
            elsewhere = text.startswith("endpoint:")  # a server knows its models' names
            on_hub = len(Path(text).parts) <= 2 and not text.startswith(("/", ".", "~"))
            made = any(lies_in(text, other.output) for other in plan.steps)
            if not (elsewhere or on_hub or made or named_path(plan, text).exists()):
                raise UserError(
                    f"--{name.replace('_', '-')} {text} does not exist, and no step makes it. "
                    "Check the path."
                )


def named_path(plan: Plan, text: str) -> Path:
    """A step's path as this process finds it."""
    whole = plan.folder / text
    return Path(text) if plan.folder == Path.cwd() else whole


def runs_on_several(step: Step) -> bool:
    """Whether a launcher may start several processes for the step's command."""
    return COMMANDS[step.command].shared


def makes_shards(step: Step) -> bool:
    """Whether independent processes may each make a part of what the step writes."""
    if not COMMANDS[step.command].shared or step.command.startswith("train "):
        return False
    return "shard" in _options_of(step.command)


def path_options(command: str) -> frozenset[str]:
    """The options of a command that are paths.

    Raises:
        UserError: there is no such command for a plan.
    """
    if command not in COMMANDS or command in OWN:
        raise UserError(
            f"there is no command {command!r} for a plan. `veridical --help` lists all."
        )
    named = (name for name, option in _options_of(command).items() if is_path(option))
    return frozenset({IMPORT, *named})


def has_option(command: str, name: str) -> bool:
    """Whether a command has an option; one that is not there has none."""
    return command in COMMANDS and name in _options_of(command)


@functools.cache
def _options_of(command: str) -> Mapping[str, Option]:
    with without_libraries():
        return signatures.read_options(find_function(COMMANDS[command]))
