"""Words and a YAML file as the arguments of a typed function.

jsonargparse reads YAML, checks types and merges the file with the command line. What is here and
in the modules beside it lets people write options as they are used to (bare words first, `--flag`,
`--runs a b`, hyphens), and says in a line what is wrong. CONTRIBUTING says why that is our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from veridical.cli.named_files import named_values
from veridical.cli.ranges import check_option_ranges
from veridical.cli.signatures import Option, as_arguments, describe_option, narrowed
from veridical.cli.values import check_config_files, check_values, check_words
from veridical.cli.words import label, spell_out
from veridical.runtime.errors import UserError


def parse(
    program: str,
    function: Callable[..., object],
    options: Mapping[str, Option],
    positionals: Sequence[str],
    arguments: Sequence[str],
) -> dict[str, object]:
    """The keyword arguments for `function` that the configuration file and the words ask for.

    Raises:
        UserError: an unknown option, a value of the wrong type or outside its range, a missing or
            unreadable file.
    """
    try:
        words = spell_out(options, positionals, arguments)
        check_words(words)
        check_config_files(options, words)
        options = narrowed(options, named_values(words))
        namespace = parser_of(program, options).parse_args(words)
    except UserError as error:
        raise UserError(f"{error} See `{program} --help`.") from None
    except ArgumentError as error:
        reason = explain(str(error), options, positionals)
        raise UserError(f"{reason} See `{program} --help`.") from None
    values = {name: namespace[name] for name in options}
    for name, option in options.items():
        if option.is_mapping and values[name] is not None:
            values[name] = plain_dict(values[name])
    try:
        check_values(options, values)
        check_option_ranges(options, values)
    except UserError as error:
        raise UserError(f"{error} See `{program} --help`.") from None
    return as_arguments(function, values)


def parser_of(program: str, options: Mapping[str, Option]) -> ArgumentParser:
    """A parser that takes these options."""
    parser = ArgumentParser(prog=program, exit_on_error=False, default_env=False)
    parser.add_argument("--config", action="config")
    for name, option in options.items():
        given = {"required": True} if option.required else {"default": option.default}
        parser.add_argument(f"--{name}", type=option.type, **given)
    return parser


def plain_dict(value: Any) -> Any:
    """A mapping of the parser's own kind as a plain dictionary."""
    return value.as_dict() if hasattr(value, "as_dict") else dict(value)


def explain(message: str, options: Mapping[str, Option], positionals: Sequence[str]) -> str:
    """The parser's complaint in one line: which option, what it takes, what it got."""
    missing = re.search(r"arguments are required: (.*)|Key \"(\w+)\" is required", message)
    if missing:
        names = (missing.group(1) or missing.group(2)).split(", ")
        shown = [label(name, positionals) for name in names]
        return f"{' and '.join(shown)} {'is' if len(shown) == 1 else 'are'} missing."
    key = re.search(r"[Pp]arser key \"([\w.]+)\"", message)
    if key and (option := options.get(key.group(1).split(".")[0])):
        value = re.findall(r"(?:Given|Got) value: (.*)", message)
        got = f", not {value[-1].strip()!r}" if value else ""
        return f"{label(key.group(1), positionals)} takes {describe_option(option)}{got}."
    return " ".join(message.split())
