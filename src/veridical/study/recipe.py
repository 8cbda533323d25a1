"""Recipes: named lists of steps from a model and data to an aligned model, as YAML files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from veridical.data.record_kinds import Kind
from veridical.data.steering import parse_steer
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text
from veridical.runtime.yaml_text import read_yaml
from veridical.study.plan import OptionValue, Step, step_of
from veridical.study.shipped import find_file, shipped_names

FOLDER = Path(__file__).parent / "recipes"
DEFAULTS = FOLDER / "embedded" / "defaults.yaml"
"""Options by command that suit the embedded model, which is tiny."""
PLACEHOLDER = re.compile(r"\{(\w+)\}")
FIELDS = ("summary", "takes", "judge", "needs", "scenes", "steps", "result", "steer", "evaluate")
JUDGES = ("none", "exact", "model", "any", "chair")
NEEDS = ("facts", "scenes")
CONDITIONS = ("conversation", "preference", "exact", "model")


@dataclass(frozen=True)
class Recipe:
    """A way from a model and data to an aligned model.

    Attributes:
        name: as in `--recipe`.
        summary: what it does, in one line.
        takes: the kinds of records that it can start from.
        judge: who says which answer is better: `none`, `exact` (by object lists), `chair` (by
            CHAIR, from object lists), `model` (one that `--judge` names), or `any` of `exact` and
            `model`.
        needs: what else there has to be: `facts`, or `scenes` that were drawn, which it evaluates
            on.
        steps: rows of a plan with placeholders, each with an optional `when`.
        result: the folder of the aligned model, with placeholders.
        steer: attributes that the result is asked for, when it is evaluated; "" for none.
        scenes: of the embedded model's own data: how many scenes to train on, and to evaluate on.
        evaluate: whether `evaluate` steps are added; a recipe that has its own says false.
    """

    name: str
    summary: str
    takes: tuple[Kind, ...]
    judge: str
    needs: tuple[str, ...]
    steps: tuple[Mapping[str, Any], ...]
    result: str
    steer: str = ""
    scenes: tuple[int, int] = (200, 200)
    evaluate: bool = True

    def filled(
        self, values: Mapping[str, OptionValue], holds: Sequence[str], defaults: Defaults
    ) -> list[Step]:
        """Its steps with values in place of placeholders.

        Args:
            values: by placeholder; an option whose value is None is left out.
            holds: the conditions that hold; steps with another `when` are left out.
            defaults: options by command, which replace those of the recipe.
        """
        steps = []
        for number, row in enumerate(self.steps, start=1):
            if row.get("when") not in (None, *holds):
                continue
            own = {key: item for key, item in row.items() if key != "when"}
            options = {**row.get("options", {}), **defaults.get(row["command"], {})}
            filled = fill(options, values, self.name)
            own["options"] = {key: item for key, item in filled.items() if item is not None}
            steps.append(step_of(own, f"recipe {self.name}, step {number}"))
        return steps


Defaults = Mapping[str, Mapping[str, OptionValue]]


def recipe_names() -> list[str]:
    """The recipes in the package."""
    return shipped_names(FOLDER)


def find_recipe(name: str) -> Recipe:
    """Read a recipe of the package, or a YAML file.

    Raises:
        UserError: there is none of that name, or the file is not a recipe.
    """
    return read_recipe(find_file(name, FOLDER, "recipe", "--recipe "))


def read_recipe(path: Path) -> Recipe:
    """Read a recipe's file.

    Raises:
        UserError: a field is missing, unknown or of another form.
    """
    content = read_yaml(read_text(path), str(path))
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise UserError(f"{path} is not a recipe: it has to have `steps`, a list of commands.")
    if unknown := sorted(map(str, content.keys() - set(FIELDS))):
        raise UserError(f"{path}: there is no field {unknown[0]}; there is {', '.join(FIELDS)}.")
    judge, result = content.get("judge", "none"), content.get("result")
    if judge not in JUDGES:
        raise UserError(f"{path}: judge has to be of {', '.join(JUDGES)}.")
    if not isinstance(result, str):
        raise UserError(
            f"{path}: result has to name the aligned model, such as {{out}}/train/model."
        )
    steer = str(content.get("steer") or "")
    try:
        _ = parse_steer(steer) if steer else {}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    evaluate = content.get("evaluate", True)
    if not isinstance(evaluate, bool):
        raise UserError(f"{path}: evaluate has to be true or false.")
    for number, row in enumerate(content["steps"], start=1):
        _check_row(f"{path}, step {number}", row)
    return Recipe(
        path.stem,
        str(content.get("summary", "")),
        _words(path, "takes", content.get("takes"), get_args(Kind)) or ("conversation",),
        judge,
        _words(path, "needs", content.get("needs"), NEEDS),
        tuple(content["steps"]),
        result,
        steer,
        _scenes(path, content.get("scenes") or {}),
        evaluate,
    )


def _words(path: Path, name: str, given: object, known: Sequence[str]) -> tuple[Any, ...]:
    """A field that is a list of known words."""
    words = [] if given is None else given
    if not isinstance(words, list) or not all(word in known for word in words):
        raise UserError(f"{path}: {name} has to be a list of {', '.join(known)}.")
    return tuple(words)


def _check_row(place: str, row: object) -> None:
    if not isinstance(row, dict) or row.get("when") not in (None, *CONDITIONS):
        raise UserError(
            f"{place}: it has to be a mapping whose `when`, if it has one, is of "
            f"{', '.join(CONDITIONS)}."
        )
    if not isinstance(row.get("command"), str) or not isinstance(row.get("options", {}), dict):
        raise UserError(f"{place}: it needs a command, and its options have to be a mapping.")


def _scenes(path: Path, given: object) -> tuple[int, int]:
    """How many scenes to train on, and to evaluate on."""
    counts = {"train": 200, "test": 200}
    if not isinstance(given, dict) or not given.keys() <= counts.keys():
        raise UserError(f"{path}: scenes has to be a mapping of train and test to numbers.")
    for name, count in given.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(f"{path}: scenes.{name} is {count!r}; give a whole number above 0.")
    counts |= given
    return counts["train"], counts["test"]


def embedded_defaults() -> Defaults:
    """Options by command that suit the embedded model."""
    found: Defaults = read_yaml(read_text(DEFAULTS), str(DEFAULTS))
    return found


def fill(value: OptionValue, values: Mapping[str, OptionValue], recipe: str) -> OptionValue:
    """A value with those of placeholders in it; one that is a placeholder alone keeps its type.

    Raises:
        UserError: there is no such placeholder, or it has no value and is part of a text.
    """
    if isinstance(value, Mapping):
        return {key: fill(item, values, recipe) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, values, recipe) for item in value]
    if not isinstance(value, str):
        return value
    for name in PLACEHOLDER.findall(value):
        if name not in values:
            raise UserError(
                f"Recipe {recipe}: there is no {{{name}}}; there is "
                f"{', '.join(f'{{{known}}}' for known in values)}."
            )
    alone = PLACEHOLDER.fullmatch(value)
    if alone is not None:
        return values[alone[1]]
    for name in PLACEHOLDER.findall(value):
        if values[name] is None:
            raise UserError(
                f"Recipe {recipe}: {value!r} needs a value for {{{name}}}, which was not given."
            )
    return PLACEHOLDER.sub(lambda found: str(values[found[1]]), value)
