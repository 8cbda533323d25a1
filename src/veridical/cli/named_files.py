"""Files that options name, checked before any library is imported, which takes seconds."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from veridical.cli.signatures import Option
from veridical.cli.values import check_config_files, check_path, check_words
from veridical.cli.words import label, spell_out
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text, require_file

RECORDS = ("data", "more_data", "samples", "pairs", "more")
FILES = (
    *RECORDS, "objects", "vocabulary", "facts", "questions", "relabeled", "answers", "names",
    "check_objects", "check_vocabulary",
)  # fmt: skip
PLACES = ("annotations", "files", "image", "images", "images_root", "check_images", "scenes")
WORDS = {("vocabulary", "coco"), ("check_vocabulary", "coco")}
"""Values that are no path: who takes no such word says that there is no such file."""
RECORD_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json")


ON_HUB = ("files", "questions", "questions_file", "context", "references")
"""Options that may name a copy of a benchmark on the hub; the benchmark says if it reads none."""


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
    given = named_values(words)
    resumes = any(given.get(name) == ["true"] for name in ("resume", "extend"))
    for name, values in given.items():
        if name in options and is_path(options[name]):
            for value in values:
                check_named_file(name, Path(value), label(name, positionals), resumes)


def check_named_file(name: str, path: Path, shown: str, resumes: bool = False) -> None:
    """Refuse a path that can't be what the option reads; `resumes` says that a run goes on.

    Raises:
        UserError: it is missing, a folder where a file is read, or of a type that nothing reads.
    """
    check_path(shown, path)
    if (name, str(path)) in WORDS or (name in ON_HUB and may_be_on_hub(path)):
        return
    if name in FILES:
        require_file(path, shown)
    elif name in PLACES and not path.exists():
        moved = " It may be another folder than at the start, if its images are the same."
        also = moved if resumes and name == "images_root" else ""
        raise UserError(f"{shown} {path} does not exist. Check the path.{also}")
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


def may_be_on_hub(path: Path) -> bool:
    """Whether a path that is not here has the form of a set's name on the hub, `owner/set`."""
    plain = len(path.parts) == 2 and not path.suffix and not path.parts[0].startswith((".", "~"))
    return plain and not path.exists() and not path.parent.exists()


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
