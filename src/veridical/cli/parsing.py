"""Words and a YAML file as the arguments of a typed function.

jsonargparse reads YAML, checks types and merges the file with the command line. What is here
lets people write options as they are used to (bare words first, `--flag`, `--runs a b`,
hyphens), and says in a line what is wrong.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from veridical.cli.ranges import check_ranges
from veridical.cli.signatures import Option, as_arguments, describe, narrowed, nearest, spelled
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text, require_file
from veridical.runtime.yaml_text import check_size, read_yaml

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""In bytes, on every common file system."""
LONG_NUMBER = re.compile(r"\d{4000}")
"""Python reads no integer of more than 4,300 digits."""
DEEPEST = 100
"""Brackets in a value, and values within one."""


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
            values[name] = plain(values[name])
    try:
        check_values(options, values)
        check_ranges(options, values)
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


RECORDS = ("data", "more_data", "samples", "pairs", "more")
FILES = (
    *RECORDS, "objects", "vocabulary", "facts", "questions", "answers", "names", "check_objects",
    "check_vocabulary",
)  # fmt: skip
PLACES = ("annotations", "image", "images", "images_root", "check_images", "scenes")
WORDS = {("vocabulary", "coco"), ("check_vocabulary", "coco")}
"""Values that are no path: who takes no such word says that there is no such file."""
RECORD_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json")


def check_named_files(
    program: str,
    options: Mapping[str, Option],
    positionals: Sequence[str],
    arguments: Sequence[str],
) -> None:
    """Refuse files to be read that are missing or of a type that nothing reads.

    Values from a configuration file count as those on the command line do. Needs no library.

    Raises:
        UserError: names the option (or the positional, as in the help) and the file.
    """
    try:
        words = spell_out(options, positionals, arguments)
        check_words(words)
        check_config_files(options, words)
    except UserError as error:
        raise UserError(f"{error} See `{program} --help`.") from None
    if any(word.startswith("--print_config") for word in words):
        return  # nothing is read
    for name, values in named_values(words).items():
        if name in options and is_path(options[name]):
            for value in values:
                check_named_file(name, Path(value), label(name, positionals))


def named_values(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of each option; later words replace those of configuration files."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if name == "config":
            content = yaml.safe_load(read_text(Path(value)))
            found |= {str(key): as_texts(item) for key, item in content.items()}
        elif value.startswith("["):
            with contextlib.suppress(yaml.YAMLError):  # the parser says what is wrong with it
                found[name] = as_texts(yaml.safe_load(value))
        else:
            found[name] = as_texts(None if value == "null" else value)
    return found


def as_texts(value: Any) -> list[str]:
    """The texts of a value or of a list; what is none is left to the parser."""
    return [item for item in (value if isinstance(value, list) else [value]) if _is_name(item)]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def is_path(option: Option) -> bool:
    """Whether an option takes a path, or several."""
    return option.hint is Path or Path in typing.get_args(option.hint)


def check_named_file(name: str, path: Path, shown: str) -> None:
    """Refuse a path that can't be what the option reads.

    Raises:
        UserError: it is missing, a folder where a file is read, or of a type that nothing reads.
    """
    check_path(shown, path)
    if (name, str(path)) in WORDS:
        return
    if name in FILES:
        require_file(path, shown)
    elif name in PLACES and not path.exists():
        raise UserError(f"{shown} {path} does not exist. Check the path.")
    if name not in RECORDS:
        return
    suffix = path.suffix.lower()
    if suffix not in RECORD_SUFFIXES:
        raise UserError(f"{shown} {path} must end in {' or '.join(RECORD_SUFFIXES)}.")
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise UserError(f"{shown} {path} is empty; it holds no rows.")
    if suffix == ".parquet" and start != b"PAR1":
        raise UserError(f"{shown} {path} is not a whole Parquet file: it does not start as one.")


def label(name: str, positionals: Sequence[str]) -> str:
    """An option as its command's help names it: SAMPLES for a bare word, else --samples."""
    return name.upper() if name in positionals else spelled(name)


def plain(value: Any) -> Any:
    """A mapping of the parser's own kind as a plain dictionary."""
    return value.as_dict() if hasattr(value, "as_dict") else dict(value)


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
        word = given[0] if given else take_value(rest, name)
        key, equals, value = word.partition("=")
        entry = f"--{name}.{key}={value}" if equals and key.isidentifier() else f"--{name}={word}"
        return [entry]
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
        content = read_yaml(read_text(path), str(path))
        if not isinstance(content, dict):
            raise UserError(f"{path} has to be a mapping of options, such as `seed: 1`.")
        for key in content:
            if key not in options:
                matches = difflib.get_close_matches(str(key), list(options), n=1)
                suggestion = f" (did you mean {matches[0]}?)" if matches else ""
                raise UserError(f"{path}: there is no option {key}{suggestion}.")


def check_values(options: Mapping[str, Option], values: Mapping[str, object]) -> None:
    """Refuse what the parser lets pass: null for an option that takes none, and impossible paths.

    Raises:
        UserError: names the option.
    """
    for name, option in options.items():
        value = values[name]
        if value is None and not option.optional and option.default is not None:
            raise UserError(f"{spelled(name)} takes {describe(option)}, not null.")
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Path):
                check_path(spelled(name), item)
            elif isinstance(item, str) and "\0" in item:
                raise UserError(f"{spelled(name)} has a null byte in it.")


def check_path(option: str, path: Path) -> None:
    """Refuse a path that no file can have.

    Raises:
        UserError: names the option.
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise UserError(f"{option} is {str(path)!a}, which is not UTF-8 text.") from error
    longest = max((len(part) for part in encoded.split(b"/")), default=0)
    if b"\0" in encoded:
        raise UserError(f"{option} has a null byte in it; no file's name can.")
    if longest > LONGEST_NAME or len(encoded) > LONGEST_PATH:
        raise UserError(
            f"{option} is too long for a path: a name may have {LONGEST_NAME} bytes, all of it "
            f"{LONGEST_PATH}."
        )


def check_words(words: Sequence[str]) -> None:
    """Refuse values that would keep the parser busy for ever, or that it can't take.

    Raises:
        UserError: names the option.
    """
    for word in words:
        name, _, value = word.partition("=")
        option = spelled(name.removeprefix("--"))
        if LONG_NUMBER.search(value):
            raise UserError(f"{option} has a number of thousands of digits.")
        if value.count("[") + value.count("{") > DEEPEST:
            raise UserError(f"{option} is nested too deeply.")
        if "&" in value and "*" in value:
            with contextlib.suppress(yaml.YAMLError):
                check_size(yaml.safe_load(value), option)


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
        return f"{label(key.group(1), positionals)} takes {describe(option)}{got}."
    return " ".join(message.split())
