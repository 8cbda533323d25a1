"""What is refused of values and configuration files: what no parser complains of clearly."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from veridical.cli.signatures import Option, describe_option, spelled
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text
from veridical.runtime.yaml_text import check_size, read_yaml

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""In bytes, on every common file system."""
LONG_NUMBER = re.compile(r"\d{4000}")
"""Python reads no integer of more than 4,300 digits."""
DEEPEST = 100
"""Brackets in a value, and values within one."""


def check_config_files(options: Mapping[str, Option], words: Sequence[str]) -> None:
    """Read the configuration files once ahead, for errors that name the file and the key.

    Raises:
        UserError: a file is missing, is not a YAML mapping, or has a key that is not an option.
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


def check_values(options: Mapping[str, Option], values: Mapping[str, object]) -> None:
    """Refuse what the parser lets pass: null for an option that takes none, and impossible paths.

    Raises:
        UserError: names the option.
    """
    for name, option in options.items():
        value = values[name]
        if value is None and not option.optional and option.default is not None:
            raise UserError(f"{spelled(name)} takes {describe_option(option)}, not null.")
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
