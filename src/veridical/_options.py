"""A typed function as a command's options: its signature is the configuration.

jsonargparse reads YAML, checks types and merges the file with the command line. What is here
lets people write options as they are used to (bare words first, `--flag`, `--runs a b`,
hyphens), and says in a line what is wrong.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from docstring_parser import Docstring
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentError, ArgumentParser

from veridical.errors import UserError

TYPE_NAMES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false"}
NO_BREAK = "\N{NO-BREAK SPACE}"
CONFIG_HELP = (
    "A YAML file with any of the options (with underscores); what the command line says wins."
)
PRINT_HELP = "Print the resolved options as YAML, for use as --config, and exit."


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


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether -h or --help is among the options."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return any(word in ("-h", "--help") for word in arguments[:end])


def parse(
    program: str,
    function: Callable[..., Any],
    options: Mapping[str, Option],
    positionals: Sequence[str],
    arguments: Sequence[str],
) -> dict[str, Any]:
    """The keyword arguments for `function` that the configuration file and the words ask for.

    Raises:
        UserError: an unknown option, a value of the wrong type, a missing or unreadable file.
    """
    parser = ArgumentParser(prog=program, exit_on_error=False, default_env=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(function, fail_untyped=True)
    try:
        words = spell_out(options, positionals, arguments)
        check_config_files(options, words)
        namespace = parser.parse_args(words)
    except UserError as error:
        raise UserError(f"{error} See `{program} --help`.") from None
    except ArgumentError as error:
        reason = explain(str(error), options, positionals)
        raise UserError(f"{reason} See `{program} --help`.") from None
    values = {name: namespace[name] for name in options}
    for name, option in options.items():
        if option.is_mapping and values[name] is not None:
            values[name] = plain(values[name])
    return values


def plain(value: Any) -> Any:
    """A mapping of the parser's own kind as a plain dictionary."""
    return value.as_dict() if hasattr(value, "as_dict") else dict(value)


def spell_out(
    options: Mapping[str, Option], positionals: Sequence[str], arguments: Sequence[str]
) -> list[str]:
    """Words as the parser takes them: `M --quick --runs a b` as `--model=M --quick=true ...`.

    Raises:
        UserError: an unknown option, one without its value, or one bare word too many.
    """
    files: list[str] = []
    words: list[str] = []
    bare: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            bare += rest
            break
        if not re.match(r"--?[A-Za-z]", word):
            bare.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = known_name(name.replace("-", "_"), options)
        if name == "config":
            files.append(f"--config={value if equals else take_value(rest, name)}")
        elif name == "print_config":
            words.append(f"--{name}{equals}{value}")
        else:
            words += spell_out_one(name, options, [value] if equals else None, rest)
    # Later words override earlier ones, so files come first wherever they were written.
    return files + assign_bare_words(options, positionals, bare) + words


def spell_out_one(
    name: str, options: Mapping[str, Option], given: list[str] | None, rest: list[str]
) -> list[str]:
    """One option with its values, taken from `rest` unless they are `given`."""
    if name.startswith("no_") and name not in options:
        return [f"--{name.removeprefix('no_')}=false"]
    option = options[name.split(".")[0]]
    if option.is_flag and given is None:
        follows = bool(rest) and rest[0].lower() in ("true", "false")
        return [f"--{name}={rest.pop(0).lower() if follows else 'true'}"]
    if not option.is_list:
        return [f"--{name}={given[0] if given else take_value(rest, name)}"]
    values = given or [take_value(rest, name)]
    while given is None and rest and not rest[0].startswith("--"):
        values.append(rest.pop(0))
    return [list_word(name, option, values)]


def list_word(name: str, option: Option, values: Sequence[str]) -> str:
    """A list's values as YAML; one that is YAML already, `[a, b]`, is left as it is."""
    if len(values) == 1 and values[0].startswith("["):
        return f"--{name}={values[0]}"
    is_text = typing.get_args(option.hint)[0] in (str, Path)
    return f"--{name}=[{', '.join(map(json.dumps, values) if is_text else values)}]"


def assign_bare_words(
    options: Mapping[str, Option], positionals: Sequence[str], bare: list[str]
) -> list[str]:
    """Bare words as the options that they stand for, in order."""
    words: list[str] = []
    for name in positionals:
        if bare and options[name].is_list:
            words.append(list_word(name, options[name], bare))
            bare = []
        elif bare:
            words.append(f"--{name}={bare.pop(0)}")
    if bare:
        takes = " ".join(name.upper() for name in positionals) or "none"
        raise UserError(f"what is {bare[0]!r} for? The words without a -- that it takes: {takes}.")
    return words


def take_value(rest: list[str], name: str) -> str:
    """The next word, which has to be a value."""
    if not rest or rest[0].startswith("--"):
        raise UserError(f"{spelled(name)} needs a value.")
    return rest.pop(0)


def known_name(name: str, options: Mapping[str, Option]) -> str:
    """`name` if it is an option's.

    Raises:
        UserError: it is not; the message names the nearest.
    """
    root, dot, _ = name.partition(".")
    if name in ("config", "print_config"):
        return name
    if root in options and (not dot or options[root].is_mapping):
        return name
    positive = options.get(name.removeprefix("no_"))
    if positive and positive.is_flag:
        return name
    raise UserError(f"there is no option {spelled(name)}{nearest(name, options)}.")


def nearest(name: str, options: Mapping[str, Option]) -> str:
    """A suggestion, or nothing."""
    matches = difflib.get_close_matches(name, list(options), n=1)
    return f" (did you mean {spelled(matches[0])}?)" if matches else ""


def spelled(name: str) -> str:
    """An option as people write it."""
    return "--" + name.replace("_", "-")


def check_config_files(options: Mapping[str, Option], words: Sequence[str]) -> None:
    """Read the configuration files once ahead, for errors that name the file and the key.

    Raises:
        UserError: a file is missing, is not a YAML mapping, or has a key that is no option.
    """
    for word in words:
        if not word.startswith("--config="):
            continue
        path = Path(word.removeprefix("--config="))
        if not path.is_file():
            raise UserError(f"--config {path} does not exist or is not a file.")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} has to be a mapping of options, such as `seed: 1`.")
        for key in content:
            if key not in options:
                raise UserError(f"{path}: there is no option {key!r}{nearest(str(key), options)}.")


def explain(message: str, options: Mapping[str, Option], positionals: Sequence[str]) -> str:
    """The parser's complaint in one line: which option, what it takes, what it got."""
    missing = re.search(r"arguments are required: (.*)|Key \"(\w+)\" is required", message)
    if missing:
        names = (missing.group(1) or missing.group(2)).split(", ")
        shown = [name.upper() if name in positionals else spelled(name) for name in names]
        return f"{' and '.join(shown)} {'is' if len(shown) == 1 else 'are'} missing."
    key = re.search(r"[Pp]arser key \"([\w.]+)\"", message)
    if key and (option := options.get(key.group(1).split(".")[0])):
        value = re.findall(r"(?:Given|Got) value: (.*)", message)
        got = f", not {value[-1].strip()!r}" if value else ""
        return f"{spelled(key.group(1))} takes {describe(option)}{got}."
    return " ".join(message.split())


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


def help_text(
    program: str,
    function: Callable[..., Any],
    options: Mapping[str, Option],
    positionals: Sequence[str],
) -> str:
    """Usage, what the command does, and each option with its meaning, unit and default."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    docstring = docstring_of(function)
    lines = textwrap.wrap(
        usage(program, options, positionals),
        width,
        initial_indent="usage: ",
        subsequent_indent=" " * 9,
    )
    for text in (docstring.short_description, docstring.long_description):
        for paragraph in re.split(r"\n\s*\n", text or ""):
            if paragraph.strip():
                lines += ["", *textwrap.wrap(" ".join(paragraph.split()), width)]
    sections = {
        "required:": {name: option for name, option in options.items() if option.required},
        "options:": {name: option for name, option in options.items() if not option.required},
    }
    for title, members in sections.items():
        if members:
            lines += ["", title]
        for name, option in members.items():
            lines += option_lines(invocation(name, option, positionals), meaning(option), width)
    lines += ["", "for every command:"]
    lines += option_lines("--config PATH", CONFIG_HELP, width)
    lines += option_lines("--print-config", PRINT_HELP, width)
    return "\n".join(lines)


def usage(program: str, options: Mapping[str, Option], positionals: Sequence[str]) -> str:
    """The shortest complete call."""
    words = [program]
    for name in positionals:
        word = f"{name.upper()} ..." if options[name].is_list else name.upper()
        words.append(word if options[name].required else f"[{word}]")
    for name, option in options.items():
        if option.required and name not in positionals:
            words.append(f"{spelled(name)} {type_name(option.hint)}")
    return " ".join([*words, "[options]"])


def invocation(name: str, option: Option, positionals: Sequence[str]) -> str:
    """How an option is written."""
    if name in positionals:
        return name.upper() + (" ..." if option.is_list else "")
    if option.is_flag:
        return f"{spelled(name)}, {spelled('no_' + name)}"
    if option.is_mapping:
        return f"{spelled(name)}.KEY VALUE"
    return f"{spelled(name)} {type_name(option.hint)}"


def meaning(option: Option) -> str:
    """An option's help as a sentence, with its default."""
    text = option.help[:1].upper() + option.help[1:]
    if option.required or option.default is None or option.default == "":
        return text
    default = {True: "yes", False: "no"}[option.default] if option.is_flag else option.default
    shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
    return f"{text} [default:{NO_BREAK}{shown.replace(' ', NO_BREAK)}]".lstrip()


def option_lines(left: str, text: str, width: int, column: int = 32) -> list[str]:
    """Two columns; a long left one gets a line of its own."""
    wrapped = textwrap.wrap(text, width - column) or [""]
    wrapped = [line.replace(NO_BREAK, " ") for line in wrapped]
    if len(left) + 4 > column:
        return [f"  {left}", *(" " * column + line for line in wrapped)]
    first = f"  {left:<{column - 2}}{wrapped[0]}"
    return [first.rstrip(), *(" " * column + line for line in wrapped[1:])]
