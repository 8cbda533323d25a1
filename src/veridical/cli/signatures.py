"""A typed function's parameters, as a command's options.

A parameter whose type is a dataclass stands for an option for each of its fields, so that what
several commands have in common is written and documented once.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from docstring_parser import Docstring
from docstring_parser import parse as parse_docstring

TYPE_NAMES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false"}


@dataclass(frozen=True)
class Option:
    """One parameter of a command's function, or one field of a dataclass that is a parameter.

    Attributes:
        hint: its type; None is taken out of a union, as it only stands for "not set".
        optional: whether None is a value.
        default: its default, or `inspect.Parameter.empty` when it has to be given.
        help: its entry in the docstring.
        group: the first line of the dataclass's docstring; empty for a parameter.
    """

    hint: Any
    optional: bool
    default: Any
    help: str
    group: str = ""

    @property
    def type(self) -> Any:
        """What values it takes, None included."""
        return typing.Optional[self.hint] if self.optional else self.hint  # noqa: UP045

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    @property
    def is_flag(self) -> bool:
        """Whether it is true or false."""
        return self.hint is bool

    @property
    def is_list(self) -> bool:
        """Whether it takes several words."""
        return typing.get_origin(self.hint) in (list, tuple)

    @property
    def is_mapping(self) -> bool:
        """Whether it takes keys of its own, as `--trainer.max_steps 10`."""
        return typing.get_origin(self.hint) is dict


def read_options(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of `function` by name, with the help of docstrings.

    Raises:
        ValueError: two of them have the same name.
    """
    hints, documented = typing.get_type_hints(function), documentation_of(function)
    options: dict[str, Option] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            found = read_fields(hints[name], parameter.default)
        else:
            hint, optional = without_none(hints[name])
            found = {name: Option(hint, optional, parameter.default, documented.get(name, ""))}
        if twice := options.keys() & found.keys():
            raise ValueError(f"{function.__name__} has the option {min(twice)} twice.")
        options |= found
    return options


def read_fields(group: Any, instance: Any) -> dict[str, Option]:
    """The fields of a dataclass as options; where there is an `instance`, it has the defaults."""
    hints, documented = typing.get_type_hints(group), documentation_of(group)
    title = docstring_of(group).short_description or group.__name__
    options = {}
    for field in dataclasses.fields(group):
        default = getattr(instance, field.name, field.default)
        if default is dataclasses.MISSING:
            default = inspect.Parameter.empty
        hint, optional = without_none(hints[field.name])
        options[field.name] = Option(
            hint, optional, default, documented.get(field.name, ""), title.rstrip(".")
        )
    return options


def as_arguments(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options as the arguments of `function`: those of a dataclass's fields go into one.

    Options that are not among `values` keep their defaults.
    """
    hints = typing.get_type_hints(function)
    arguments = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            names = [field.name for field in dataclasses.fields(hints[name])]
            own = {field: values[field] for field in names if field in values}
            unset = parameter.default is inspect.Parameter.empty
            arguments[name] = (
                hints[name](**own) if unset else dataclasses.replace(parameter.default, **own)
            )
        elif name in values:
            arguments[name] = values[name]
    return arguments


def docstring_of(documented: Any) -> Docstring:
    """The parsed docstring of a function or a class."""
    return parse_docstring(inspect.getdoc(documented) or "")


def documentation_of(documented: Any) -> dict[str, str]:
    """What its docstring says of each argument or attribute, by name."""
    return {
        entry.arg_name: " ".join((entry.description or "").split())
        for entry in docstring_of(documented).params
    }


def without_none(hint: Any) -> tuple[Any, bool]:
    """`int | None` as (int, True)."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint, False
    members = [member for member in typing.get_args(hint) if member is not types.NoneType]
    optional = len(members) < len(typing.get_args(hint))
    return (members[0] if len(members) == 1 else typing.Union[tuple(members)]), optional  # noqa: UP007


def is_number(option: Option) -> bool:
    """Whether it takes a number, or several."""
    members = typing.get_args(option.hint) if option.is_list else (option.hint,)
    return members[0] in (int, float)


def nearest(name: str, options: Mapping[str, Option]) -> str:
    """A suggestion, or nothing."""
    matches = difflib.get_close_matches(name, list(options), n=1)
    return f" (did you mean {spelled(matches[0])}?)" if matches else ""


def spelled(name: str) -> str:
    """An option as people write it."""
    return "--" + name.replace("_", "-")


def describe(option: Option) -> str:
    """What an option takes, for people."""
    return type_name(option.hint) + (" or null" if option.optional else "")


def type_name(hint: Any) -> str:
    """A type as a word for the help."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "|".join(str(member) for member in members)
    if origin in (list, tuple):
        return f"{type_name(members[0])} ..."
    if origin in (types.UnionType, typing.Union):
        return "|".join(type_name(member) for member in members)
    if origin is dict:
        return "MAPPING"
    return TYPE_NAMES.get(hint, getattr(hint, "__name__", str(hint)).upper())
