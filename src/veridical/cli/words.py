"""The words of a command line, spelled out as the parser takes them: `--name=value`."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

from veridical.cli.signatures import Option, nearest, spelled
from veridical.runtime.errors import UserError


def spell_out(
    options: Mapping[str, Option], positionals: Sequence[str], arguments: Sequence[str]
) -> list[str]:
    """Words as the parser takes them: `M --quick --runs a b` as `--model=M --quick=true ...`.

    Raises:
        UserError: an unknown option, one without its value, one that is given twice and takes one
            value, or one bare word too many.
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
    return files + each_once(options, assign_bare_words(options, positionals, bare) + words)


def each_once(options: Mapping[str, Option], words: Sequence[str]) -> list[str]:
    """Words `--name=value` with every name once: the values of one that takes several are joined.

    Raises:
        UserError: an option that takes one value is given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if name in found:
            earlier = found[name].partition("=")[2]
            if not (name in options and options[name].is_list):
                raise UserError(
                    f"{spelled(name)} is given twice, {earlier!r} and {value!r}; give it once."
                )
            both = (earlier.strip()[1:-1].strip(), value.strip()[1:-1].strip())
            word = f"--{name}=[{', '.join(items for items in both if items)}]"
        found[name] = word
    return list(found.values())


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
    if option.is_mapping and "." not in name:
        # `--template KEY=VALUE` is `--template.KEY VALUE`.
        entries = given or [take_value(rest, name)]
        while given is None and rest and is_entry(rest[0]) and is_entry(entries[0]):
            entries.append(rest.pop(0))
        return [f"--{name}.{word}" if is_entry(word) else f"--{name}={word}" for word in entries]
    if not option.is_list:
        return [f"--{name}={given[0] if given else take_value(rest, name)}"]
    values = given or [take_value(rest, name)]
    while given is None and rest and not rest[0].startswith("--"):
        values.append(rest.pop(0))
    return [list_word(name, option, values)]


def is_entry(word: str) -> bool:
    """Whether a word is KEY=VALUE."""
    key, equals, _ = word.partition("=")
    return bool(equals) and key.isidentifier()


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
        raise UserError(f"unexpected argument {bare[0]!r}. Arguments without a --: {takes}.")
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


def label(name: str, positionals: Sequence[str]) -> str:
    """An option as its command's help names it: SAMPLES for a bare word, else --samples."""
    return name.upper() if name in positionals else spelled(name)
