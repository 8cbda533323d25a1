"""A typed function's parameters, as a command's options.

A parameter whose type is a dataclass stands for an option for each of its fields, so that what
several commands have in common is written and documented once.

A field whose type is a dataclass stands for that one's fields in the same way.

A field whose type is a union of dataclasses, `loss: DPO | IPO`, is a choice: `--loss` takes their
names (their attribute `name`), and the fields of the chosen one are options. A field that is a
tuple of dataclasses, `terms: tuple[Likelihood, ...]`, has the fields of all of them as options;
those that are left at weight 0 are not in it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from docstring_parser import Docstring
from docstring_parser import parse as parse_docstring

from veridical.runtime.errors import UserError
from veridical.runtime.ranges import Range, range_of

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
        range: the numbers that it takes, where its annotation says so.
        choice: the option that decides whether there is this one; empty if there always is.
        variants: for an option of a choice: how each chosen name that has it has it.
        chosen_by: for a choice: options that choose a name by themselves, where the choice is not
            given.
    """

    hint: Any
    optional: bool
    default: Any
    help: str
    group: str = ""
    range: Range | None = None
    choice: str = ""
    variants: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    chosen_by: Mapping[str, str] = dataclasses.field(default_factory=dict)

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


def read_options(function: Callable[..., object]) -> dict[str, Option]:
    """The options of `function` by name, with the help of docstrings.

    Raises:
        ValueError: two of them have the same name.
    """
    hints, documented = typing.get_type_hints(function), documentation_of(function)
    annotated = typing.get_type_hints(function, include_extras=True)
    options: dict[str, Option] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            found = options_of_group(hints[name], parameter.default)
        else:
            hint, optional = without_none(hints[name])
            option = Option(
                hint, optional, parameter.default, documented.get(name, ""),
                range=range_of(annotated[name]),
            )  # fmt: skip
            found = {name.rstrip("_"): option}  # `as_` is --as
        if twice := options.keys() & found.keys():
            raise ValueError(f"{function.__name__} has the option {min(twice)} twice.")
        options |= found
    return options


def options_of_group(group: Any, instance: Any) -> dict[str, Option]:
    """The fields of a dataclass as options; where there is an `instance`, it has the defaults."""
    hints = typing.get_type_hints(group, include_extras=True)
    documented = documentation_of(group)
    title = (docstring_of(group).short_description or group.__name__).rstrip(".")
    options: dict[str, Option] = {}
    for field in dataclasses.fields(group):
        default: Any = getattr(instance, field.name, field.default)
        if default is dataclasses.MISSING:
            default = inspect.Parameter.empty
        hint, help = hints[field.name], documented.get(field.name, "")
        if is_group(hint):
            options |= options_of_group(without_annotation(hint), default)
        elif choices := choices_of(hint):
            names: Any = Literal.__getitem__(tuple(choices))
            by = {one.chosen_by: n for n, one in choices.items() if hasattr(one, "chosen_by")}
            options[field.name] = Option(names, False, default.name, help, title, chosen_by=by)
            options |= variant_options(field.name, choices, default)
        elif members := members_of(hint):
            for member in members:
                options |= options_of_group(member, _of_type(default, member))
        else:
            bare, optional = without_none(hint)
            options[field.name] = Option(bare, optional, default, help, title, range_of(hint))
    return options


def variant_options(
    choice: str, choices: Mapping[str, object], instance: object
) -> dict[str, Option]:
    """The options of all that can be chosen; one that several have stands once."""
    found: dict[str, dict[str, Option]] = {}
    for chosen, group in choices.items():
        own = instance if type(instance) is group else None
        for name, option in options_of_group(group, own).items():
            found.setdefault(name, {})[chosen] = option
    return {name: _merged(choice, variants) for name, variants in found.items()}


def _merged(choice: str, variants: Mapping[str, Option]) -> Option:
    """One option for the help page, with what each chosen name says of it."""
    first = next(iter(variants.values()))
    same = all(option.default == first.default for option in variants.values())
    said: dict[str, list[str]] = {}
    for chosen, option in variants.items():
        default = "" if same else f" (default {option.default})"
        said.setdefault(f"{option.help.rstrip('.')}{default}.", []).append(f"`{chosen}`")
    helps = [f"{', '.join(names)}: {text}" for text, names in said.items()]
    return dataclasses.replace(
        first,
        default=first.default if same else None,
        help=" ".join(helps),
        group=f"options of the chosen {spelled(choice)}",
        choice=choice,
        variants=variants,
    )


def narrowed(
    options: Mapping[str, Option], given: Mapping[str, Sequence[str]]
) -> dict[str, Option]:
    """The options that there are with what was chosen.

    Args:
        options: from `read_options`.
        given: the values that were written, by option.

    Raises:
        UserError: an option is given that the chosen one does not have.
    """
    found: dict[str, Option] = {}
    options = _chosen_by_options(options, given)
    for name, option in options.items():
        if not option.variants:
            found[name] = option
            continue
        chosen = next(iter(given.get(option.choice, ())), options[option.choice].default)
        if chosen in option.variants:
            found[name] = option.variants[chosen]
        elif chosen not in typing.get_args(options[option.choice].hint):
            found[name] = option  # the parser refuses what was chosen
        elif name in given:
            of = " or ".join(option.variants)
            raise UserError(
                f"{spelled(name)} belongs to {spelled(option.choice)} {of}; {chosen} has none. "
                "Leave it out."
            )
    return found


def _chosen_by_options(
    options: Mapping[str, Option], given: Mapping[str, Sequence[str]]
) -> dict[str, Option]:
    """Choices that are not given have the default that another option, which is, chooses."""
    found = dict(options)
    for name, option in options.items():
        chosen = [one for by, one in option.chosen_by.items() if by in given]
        if chosen and name not in given:
            found[name] = dataclasses.replace(option, default=chosen[0])
    return found


def as_arguments(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options as the arguments of `function`: those of a dataclass's fields go into one.

    Options that are not among `values` keep their defaults.
    """
    hints = typing.get_type_hints(function)
    arguments = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            unset = parameter.default is inspect.Parameter.empty
            instance = None if unset else parameter.default
            arguments[name] = filled(hints[name], instance, values)
        elif name.rstrip("_") in values:
            arguments[name] = values[name.rstrip("_")]
    return arguments


def filled(group: Any, instance: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass with the values of its options, the others as `instance` or by default."""
    hints = typing.get_type_hints(group)
    own = {}
    for field in dataclasses.fields(group):
        before = getattr(instance, field.name, field.default)
        if is_group(hints[field.name]):
            inner = None if before is dataclasses.MISSING else before
            own[field.name] = filled(hints[field.name], inner, values)
        elif choices := choices_of(hints[field.name]):
            chosen = choices[values.get(field.name, before.name)]
            own[field.name] = filled(chosen, before if type(before) is chosen else None, values)
        elif members := members_of(hints[field.name]):
            made = [filled(member, _of_type(before, member), values) for member in members]
            own[field.name] = tuple(one for one in made if one.weight)
        elif field.name in values:
            own[field.name] = values[field.name]
    return group(**own) if instance is None else dataclasses.replace(instance, **own)


def is_group(hint: object) -> bool:
    """Whether a type is one dataclass, whose fields are options."""
    return dataclasses.is_dataclass(without_annotation(hint))


def choices_of(hint: object) -> dict[str, object]:
    """The members of a union of dataclasses, by name; empty for other types."""
    members = without_annotation(hint)
    if typing.get_origin(members) not in (types.UnionType, typing.Union):
        return {}
    choices = typing.get_args(members)
    return {one.name: one for one in choices} if all(map(dataclasses.is_dataclass, choices)) else {}


def members_of(hint: object) -> list[Any]:
    """The dataclasses that a tuple of any of them may hold; empty for other types."""
    if typing.get_origin(hint) is not tuple:
        return []
    inner = typing.get_args(hint)[0]
    members = [inner] if isinstance(inner, type) else list(typing.get_args(inner))
    return members if all(map(dataclasses.is_dataclass, members)) else []


def _of_type(instances: Any, wanted: type) -> Any:
    """The one of a tuple that is of a type; None if none is."""
    return next((one for one in instances or () if type(one) is wanted), None)


def docstring_of(documented: object) -> Docstring:
    """The parsed docstring of a function or a class."""
    return _parsed(inspect.getdoc(documented) or "")


@functools.cache
def _parsed(text: str) -> Docstring:
    # Options are read twice for a command, and each of their groups several times.
    return parse_docstring(text)


def documentation_of(documented: object) -> dict[str, str]:
    """What docstrings say of each argument or attribute, by name; a class has its bases' too."""
    documents = reversed(documented.__mro__) if isinstance(documented, type) else [documented]
    return {
        entry.arg_name: " ".join((entry.description or "").split())
        for one in documents
        for entry in docstring_of(one).params
    }


def without_annotation(hint: object) -> object:
    """`Annotated[int, ...]` as int."""
    return typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint


def without_none(hint: Any) -> tuple[Any, bool]:
    """`int | None` as (int, True)."""
    hint = without_annotation(hint)
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


def describe_option(option: Option) -> str:
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
        return "KEY=VALUE ..."
    return TYPE_NAMES.get(hint, getattr(hint, "__name__", str(hint)).upper())
