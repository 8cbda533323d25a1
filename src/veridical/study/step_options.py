"""Options of single steps, or of all, from texts such as `train.learning_rate=1e-6`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import yaml

from veridical.runtime.errors import UserError
from veridical.study.commands import has_option
from veridical.study.plan import OUTPUTS, OptionValue, Step, lies_in, named, texts_of

EVERY = "all"
"""In place of a step's name: every step whose command has the option."""


def with_options(steps: Sequence[Step], options: Sequence[str]) -> list[Step]:
    """Steps with options put in.

    Args:
        steps: of a plan.
        options: texts such as "train.learning_rate=1e-6" or "all.dtype=bfloat16"; later ones win.

    Raises:
        UserError: one of them is not of that form, of no step, or for all steps where these have
            to differ.
    """
    if isinstance(options, str | Mapping):
        raise UserError(
            f"The options are {options!r}; give a list of texts, such as "
            "['train.learning_rate=1e-6']."
        )
    changed = {step.name: dict(step.options) for step in steps}
    for text in options:
        name, option, value = _parts(text)
        if name == EVERY and EVERY not in changed:
            those = [step for step in steps if has_option(step.command, option.partition(".")[0])]
            _refuse_for_all(text, option, those, steps)
        else:
            those = [step for step in steps if step.name == name]
        if not those:
            known = f"there is {named(steps)}, and {EVERY} for every step that has the option"
            lacks = "no step has that option" if name == EVERY else f"there is no step {name}"
            raise UserError(f"--options {text!r}: {lacks}; {known}.")
        for step in those:
            changed[step.name][option] = value
    return [replace(step, options=changed[step.name]) for step in steps]


def _refuse_for_all(text: str, option: str, those: Sequence[Step], steps: Sequence[Step]) -> None:
    """Refuse one value for all steps of what tells them apart or passes files between them.

    One seed for all would test on the scenes that were trained on; one model for all would evaluate
    the same model before and after.
    """
    for step in those:
        read = [
            t for t in texts_of(step.options.get(option)) for o in steps if lies_in(t, o.output)
        ]
        if read or option in (*OUTPUTS, "seed"):
            way = " `align` itself takes --seed." if option == "seed" else ""
            raise UserError(
                f"--options {text!r}: steps need a {option} of their own each. Set it for single "
                f"steps, such as {step.name}.{option}.{way}"
            )


def _parts(text: str) -> tuple[str, str, OptionValue]:
    """The step, the option and the value of a text."""
    place, equals, value = text.partition("=")
    name, dot, option = place.strip().partition(".")
    if not (equals and dot and option):
        raise UserError(f"--options {text!r} is not of the form train.learning_rate=1e-6.")
    try:
        return name, option.replace("-", "_"), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--options {text!r}: the value is not YAML. Put it in quotes.") from error
