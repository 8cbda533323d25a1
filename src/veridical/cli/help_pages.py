"""A command's help page: what it does, and each option with its meaning, unit and default."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence

from veridical.cli.signatures import Option, docstring_of, spelled, type_name

NO_BREAK = "\N{NO-BREAK SPACE}"
CONFIG_HELP = (
    "A YAML file with any of the options (with underscores). The command line takes precedence."
)
IMPORT_HELP = (
    "A Python file to run first, such as one that registers a model class with Transformers. "
    "May be given several times; run.json records it."
)
PRINT_HELP = "Print the resolved options as YAML, for use as --config, and exit."


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether -h or --help is among the options."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return any(word in ("-h", "--help") for word in arguments[:end])


def help_text(
    program: str,
    function: Callable[..., object],
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
    for title, members in sections(options).items():
        lines += ["", f"{title[:1].lower()}{title[1:]}:"]
        for name, option in members.items():
            lines += option_lines(invocation(name, option, positionals), meaning(option), width)
    lines += ["", "for every command:"]
    lines += option_lines("--config PATH", CONFIG_HELP, width)
    lines += option_lines("--print-config", PRINT_HELP, width)
    lines += option_lines("--import FILE.py", IMPORT_HELP, width)
    return "\n".join(lines)


def sections(options: Mapping[str, Option]) -> dict[str, dict[str, Option]]:
    """Options by the heading that they stand under: first what has to be given."""
    found: dict[str, dict[str, Option]] = {"required": {}, "options": {}}
    for name, option in options.items():
        title = "required" if option.required else option.group or "options"
        found.setdefault(title, {})[name] = option
    return {title: members for title, members in found.items() if members}


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
        return f"{spelled(name)} KEY=VALUE ..."
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
