"""A typed function's parameters, as a command's options."""

from __future__ import annotations

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
    """One parameter of a command's function.

    Attributes:
        hint: its type; None is taken out of a union, as it only stands for "not set".
        optional: whether None is a value.
        default: its default, or `inspect.Parameter.empty` when it has to be given.
        help: its entry in the docstring's Args.
    """

    hint: Any
    optional: bool
    default: Any
    help: str

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
    """The parameters of `function` by name, with the help of its docstring."""
    hints = typing.get_type_hints(function)
    documented = {
        entry.arg_name: " ".join((entry.description or "").split())
        for entry in docstring_of(function).params
    }
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint, optional = without_none(hints[name])
        options[name] = Option(hint, optional, parameter.default, documented.get(name, ""))
    return options


def docstring_of(function: Callable[..., Any]) -> Docstring:
    """The parsed docstring."""
    return parse_docstring(inspect.getdoc(function) or "")


def without_none(hint: Any) -> tuple[Any, bool]:
    """`int | None` as (int, True)."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint, False
    members = [member for member in typing.get_args(hint) if member is not types.NoneType]
    optional = len(members) < len(typing.get_args(hint))
    return (members[0] if len(members) == 1 else typing.Union[tuple(members)]), optional  # noqa: UP007


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
