"""Every numeric option of every command has a range, checked before anything loads."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from veridical import cli
from veridical.cli.parsing import parse
from veridical.cli.ranges import RANGES
from veridical.cli.signatures import Option, is_number, read_options, spelled
from veridical.runtime.errors import UserError
from veridical.runtime.ranges import Range

TAKES_MINUS_ONE = {
    "answer_reward", "length_penalty", "max_steps", "minimum", "similarity_threshold",
}  # fmt: skip
TAKES_ZERO = {
    "lora_dropout", "min_score",
    "answer_reward", "gamma", "held_out", "kl_coefficient", "lam",
    "length_penalty", "margin", "mask_threshold", "max_bad_fraction", "minimum",
    "mark_weight", "min_new_tokens", "overlap", "top_k",
    "no_end_penalty", "noise_steps", "offline", "retry_temperature", "seed",
    "similarity_threshold", "stop_kl", "temperature", "value_weight", "verbosity_words",
    "yes_no_swap",
}  # fmt: skip
NEVER = ["nan", "inf", f"{10**30}"]
NEVER_IN_A_FILE = [".nan", "-.inf"]


@functools.cache
def command_options(name: str) -> tuple[Callable[..., Any], dict[str, Option]]:
    module, function = cli.COMMANDS[name].function.split(":")
    found = getattr(importlib.import_module(module), function)
    return found, read_options(found)


def attempt(name: str, option: str, value: str, config: Path | None = None) -> str:
    """What the command line says to one value; empty if it is taken.

    Options that have nothing to do with it are left out: a parser of all takes long to make.
    """
    function, every = command_options(name)
    needed = {option, every[option].choice}
    options = {key: each for key, each in every.items() if each.required or key in needed}
    words = [
        f"--{other}={get_args(each.hint)[0] if get_origin(each.hint) is Literal else 'x'}"
        for other, each in options.items()
        if each.required and other != option
    ]
    if options[option].variants:
        words.append(f"--{options[option].choice}={next(iter(options[option].variants))}")
    if config is None:
        words.append(f"--{option}={value}")
    else:
        config.write_text(f"{option}: {value}\n")
        words.append(f"--config={config}")
    try:
        parse("veridical", function, options, (), words)
    except UserError as error:
        return str(error)
    return ""


def numeric() -> list[tuple[str, str]]:
    return [
        (command, name)
        for command in cli.COMMANDS
        for name, option in command_options(command)[1].items()
        if is_number(option)
    ]


def test_every_numeric_option_has_a_range_and_every_range_an_option() -> None:
    without = {
        name for command, name in numeric() if command_options(command)[1][name].range is None
    }
    assert without == set(RANGES)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_numbers_outside_the_range_are_refused_by_name(command: str, tmp_path: Path) -> None:
    """Over all options of all commands, on the command line and in a file."""
    wrong = []
    for name, option in command_options(command)[1].items():
        if not is_number(option):
            continue
        taken = {"-1": name in TAKES_MINUS_ONE, "0": name in TAKES_ZERO}
        if option.range is not None:
            taken = {"-1": option.range.holds(-1), "0": option.range.holds(0)}
        for value, may in {**taken, **dict.fromkeys([*NEVER, *NEVER_IN_A_FILE], False)}.items():
            written = f"[{value}]" if option.is_list else value
            config = tmp_path / "options.yaml" if value in NEVER_IN_A_FILE else None
            said = attempt(command, name, written, config)
            clear = spelled(name) in said and "\n" not in said and len(said) < 250
            if (said != "") == may or (said and not clear):
                wrong.append((name, value, said))
    assert wrong == []


@pytest.mark.parametrize(
    ("range_", "said"),
    [
        (Range(1), "1 or more (at most 1,000,000,000)"),
        (Range(0, above=True), "above 0 (at most 1,000,000,000)"),
        (Range(0, 0.5, below=True), "0 to below 0.5"),
        (Range(0, 10, above=True), "above 0 to 10"),
        (Range(1, or_else=-1), "1 or more (at most 1,000,000,000), or -1 for none"),
    ],
)
def test_a_range_in_words(range_: Range, said: str) -> None:
    assert str(range_) == said


def test_defaults_are_in_their_ranges() -> None:
    wrong = []
    for command in cli.COMMANDS:
        options: Mapping[str, Option] = command_options(command)[1]
        for name, option in options.items():
            if is_number(option) and isinstance(option.default, int | float):
                range_ = option.range or RANGES[name]
                wrong += [] if range_.holds(option.default) else [(command, name)]
    assert wrong == []


def test_nothing_is_loaded_for_a_training_of_no_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "sft", "embedded", "--data", "x", "--out", str(tmp_path / "o")]
    assert cli.main([*words, "--max-steps", "0"]) == 2
    assert "--max-steps is 0; give 1 or more" in capsys.readouterr().err


OPTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9_-]*[a-z0-9])(?![\w-])")
COMMAND_LINE = re.compile(r"veridical ((?:[a-z_]+ ?)+)([^`\n]*)")
OTHERS = {
    "config", "print-config", "help", "version", "import", "no-private",
    "data_path", "dataset", "enable-lora", "error-unmatch", "image_folder", "no-optional-locks",
    "nproc-per-node", "porcelain", "repo-type",
}  # fmt: skip
"""Those of every command, a flag turned around, and of LLaVA, ms-swift, vLLM, git, torchrun, hf."""
ASKS_OTHERS = {"veridical.study.slurm"}
"""It gives Slurm's programs options of theirs."""
TELLS_OF_OTHERS = {"veridical.world.dataset"}
"""It says which options of other commands its files are for."""


def texts_of(module: Path) -> list[str]:
    """The texts of a module that are not docstrings; `{}` stands for what an f-string puts in."""
    tree = ast.parse(module.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in joined for part in node.values}
    whole = [
        "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        for node in joined
    ]
    return whole + [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and not {id(node)} & (docstrings | parts)
    ]  # fmt: skip


def wrong_options(text: str, own: Collection[str], every: Collection[str]) -> set[str]:
    """Options that a text names and that the command which it names, or its own, has not."""
    wrong = set()
    for words, rest in COMMAND_LINE.findall(text):
        named = words.split()
        known = [" ".join(named[:n]) for n in (3, 2, 1) if " ".join(named[:n]) in cli.COMMANDS]
        options = {*command_options(known[0])[1], *map(field, OTHERS)} if known else every
        wrong |= {
            f"{known[:1]} --{one}" for one in OPTION.findall(rest) if field(one) not in options
        }
    alone = OPTION.findall(COMMAND_LINE.sub("", text))
    return wrong | {f"--{one}" for one in alone if field(one) not in own}


def field(option: str) -> str:
    return option.replace("-", "_")


def test_every_option_that_a_message_names_exists_in_the_command_that_says_it() -> None:
    """A module of one command's function names its options; others name those of any command."""
    others = {field(one) for one in OTHERS}
    every = set(others)
    commands: dict[str, list[str]] = {}
    for name, command in cli.COMMANDS.items():
        commands.setdefault(command.function.split(":")[0], []).append(name)
        every |= command_options(name)[1].keys()
    root = Path(cli.__file__).parent.parent
    wrong = {}
    for module in sorted(root.rglob("*.py")):
        dotted = ".".join(("veridical", *module.relative_to(root).with_suffix("").parts))
        own = set(others)
        for name in commands.get(dotted, ()):
            own |= command_options(name)[1].keys()
        known = own if dotted in commands and dotted not in TELLS_OF_OTHERS else every
        texts = () if dotted in ASKS_OTHERS else texts_of(module)
        found = {one for text in texts for one in wrong_options(text, known, every)}
        if found:
            wrong[dotted] = found
    assert not wrong, wrong
