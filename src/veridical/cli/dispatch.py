"""The `veridical` command: a table of typed functions, loaded only when they are called."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import os
import re
import select
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from veridical.cli.commands import COMMANDS, Command
from veridical.runtime import interruptions, processes
from veridical.runtime.errors import FindingsError, UserError
from veridical.runtime.files import FULL, full_disk
from veridical.runtime.lacking import out_of
from veridical.runtime.local_code import import_file, take_imports
from veridical.runtime.versions import own_version

USER_ERROR_STATUS = 2
FAILED_STATUS = 1
FOUND_STATUS = 1  # of a check that has found something; as of grep, diff and linters
INTERRUPTED_STATUS = 130
TERMINATED_STATUS = 143
CLOSED_STATUS = 141  # as the shell has it for a command that SIGPIPE ends
KEPT = (
    "Answers, pairs and checkpoints that were finished are kept; a training run before its first "
    "checkpoint keeps only its log."
)
LONG_WORD = re.compile(r"\S{400,}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    A `UserError` becomes a line or two on standard error and status 2, and so do full memory and
    too many open files; any other exception is a bug and keeps its traceback. Of several processes
    one speaks: the first that failed.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with interruptions.terminable(), processes.one_voice(), bars_ended(), files_as_asked():
            run_command(given)
            sys.stdout.flush()
    except UserError as error:
        if processes.reports_errors():
            print(f"veridical: {shortened(str(error))}", file=sys.stderr)
        return USER_ERROR_STATUS
    except FindingsError:
        return FOUND_STATUS
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        return CLOSED_STATUS
    except Exception as error:
        if processes.reports_errors():
            lacking = out_of(error)
            if lacking is None:
                raise
            print(f"veridical: {lacking} {kept_by(given)}", file=sys.stderr)
            return USER_ERROR_STATUS
        return FAILED_STATUS  # another process has told why; this one only lost its company
    except interruptions.Terminated:
        print(f"\nveridical: terminated by SIGTERM. {kept_by(given)}", file=sys.stderr)
        return TERMINATED_STATUS
    except KeyboardInterrupt:
        print(f"\nveridical: interrupted. {kept_by(given)}", file=sys.stderr)
        return INTERRUPTED_STATUS
    return 0


@contextlib.contextmanager
def bars_ended() -> Iterator[None]:
    """Close the lines of progress that are open at the end, so that what follows is not on one."""
    try:
        yield
    finally:
        # A command without a bar need not wait for their library.
        progress = sys.modules.get("veridical.runtime.progress")
        if progress is not None:
            progress.end_bars()


def _output_is_closed() -> bool:
    """Whether nobody reads standard output any more (`| head`); then the rest goes nowhere."""
    watched = select.poll()
    watched.register(sys.stdout, select.POLLERR)
    closed = any(event & select.POLLERR for _, event in watched.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def kept_by(arguments: Sequence[str]) -> str:
    """What an interrupted command keeps, and how it goes on."""
    if arguments[:1] == ["align"]:
        return "Finished steps and finished parts of others are kept. The same command goes on."
    if arguments[:1] in (["view"], ["label"]):
        return "Flags, notes and labels are kept. The same command goes on."
    if arguments[:1] != ["train"]:
        return KEPT
    step = newest_checkpoint(arguments)
    place = "the last checkpoint" if step is None else f"the checkpoint of step {step}"
    return f"{KEPT} The same command with --resume true goes on from {place}."


def newest_checkpoint(arguments: Sequence[str]) -> int | None:
    """The step of the newest finished checkpoint in `--out`; None if none is found there."""
    places = [word.removeprefix("--out=") for word in arguments if word.startswith("--out=")]
    places += [value for name, value in itertools.pairwise(arguments) if name == "--out"]
    finished = Path(places[-1], "checkpoints").glob("checkpoint-*/manifest.json") if places else ()
    steps = [path.parent.name.removeprefix("checkpoint-") for path in finished]
    return max((int(step) for step in steps if step.isdigit()), default=None)


@contextlib.contextmanager
def files_as_asked() -> Iterator[None]:
    """Turn what the system says of a file into an error of the user's.

    A name that is too long, a folder that may not be written to, a disk that is full: whoever
    opened the file need not foresee it.

    Raises:
        UserError: names the file and the reason.
    """
    try:
        yield
    except OSError as error:
        reason = full_disk(error) or error.strerror
        if reason is None or (error.filename is None and error.errno not in FULL):
            raise
        place = "A file" if error.filename is None else ascii(error.filename)[1:-1]
        raise UserError(f"{place} can't be read or written: {reason}.") from error


def shortened(text: str) -> str:
    """A message with the middle of very long words, which were given as values, left out."""
    return LONG_WORD.sub(lambda found: f"{found[0][:80]}...{found[0][-40:]}", text)


def run_command(arguments: list[str]) -> None:
    """Find the command that the first one or two words name, and call its function.

    Raises:
        UserError: no such command, or its options cannot be understood.
    """
    for word in arguments:
        if not word.isprintable() and not is_text(word):
            raise UserError(f"{word!a} is not UTF-8 text. Rename the file, or correct it.")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(COMMANDS))
        return
    if arguments[0] == "--version":
        print(f"veridical {own_version()}")
        return
    name = find_command(arguments)
    if name is None:
        print(overview({key: COMMANDS[key] for key in commands_of_group(arguments[0])}))
        if arguments[0] not in COMMANDS:
            return
        print()
        name = arguments[0]
    command = COMMANDS[name]
    rest, local_code = take_imports(arguments[len(name.split()) :])
    if processes.world_size() > 1 and not command.shared:
        raise UserError(f"`{name}` runs in one process; start it without a launcher.")
    calm_libraries()
    program = f"veridical {name}"

    # Imported here, like the function, so that the list of commands comes at once.
    from veridical.cli import help_pages, signatures
    from veridical.cli.stand_ins import without_libraries

    if help_pages.asks_for_help(rest):
        with without_libraries():
            function = find_function(command)
            options = signatures.read_options(function)
            print(help_pages.help_text(program, function, options, command.positionals))
        return
    from veridical.cli import named_files, parsing

    if "torch" not in sys.modules:
        # A file that is missing is named before the libraries are imported, which takes seconds.
        with without_libraries():
            early = signatures.read_options(find_function(command))
        named_files.check_named_files(program, early, command.positionals, rest)
    function = find_function(command)
    options = signatures.read_options(function)
    given = parsing.parse(program, function, options, command.positionals, rest)
    for path in local_code:
        import_file(path)
    function(**given)
    _say_where(given.get("out", given.get("folder")))
    processes.leave()


def _say_where(place: object) -> None:
    """Where the results are, as the last line of every command that writes some."""
    if isinstance(place, Path) and place.exists() and processes.is_first():
        print(f"Results: {place}")


def is_text(word: str) -> bool:
    """Whether a word of the command line can be written down as UTF-8."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_function(command: Command) -> Callable[..., None]:
    """Import a command's function."""
    module, name = command.function.split(":")
    with without_collecting():
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
    return function


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Keep the garbage collector from looking through libraries that are being imported.

    It finds nothing there, and takes a fifth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def find_command(arguments: list[str]) -> str | None:
    """The command that `arguments` start with; None for the help of a whole group.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    first, two = arguments[0], " ".join(arguments[:2])
    group = commands_of_group(first)
    if two in COMMANDS:
        return two
    if first in COMMANDS and not (group and arguments[1:] in ([], ["-h"], ["--help"])):
        return first
    if not group:
        suggestion = nearest_command(first, [name.split()[0] for name in COMMANDS])
        raise UserError(f"there is no command {first!r}{suggestion}. `veridical --help` lists all.")
    if len(arguments) > 1 and arguments[1] in ("-h", "--help"):
        return None
    commands = " | ".join(f"veridical {name}" for name in group)
    if len(arguments) == 1 or arguments[1].startswith("-"):
        raise UserError(f"say which `{first}`: {commands}.")
    raise UserError(f"there is no command {two!r}. There is: {commands}.")


def commands_of_group(group: str) -> list[str]:
    """The commands that start with the word `group`, where there are several."""
    found = [name for name in COMMANDS if name.split()[0] == group]
    return found if len(found) > 1 else []


def nearest_command(word: str, known: Sequence[str]) -> str:
    """A suggestion, or nothing."""
    import difflib

    matches = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def overview(commands: dict[str, Command]) -> str:
    """One line for each command."""
    width = max(len(name) for name in commands) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            "usage: veridical COMMAND [options]",
            "",
            "Train vision-language models on preferences, to describe what the image shows.",
            "",
            "commands:",
            *lines,
            "",
            "`veridical COMMAND --help` documents a command's options. Every command also reads",
            "them from `--config FILE.yaml`; the command line wins. The model `embedded`",
            "comes with the package. Exit status: 0 done, 1 `data check` found errors,",
            "2 invalid input, 130 interrupted, 143 terminated (SIGTERM).",
        ]
    )


def calm_libraries() -> None:
    """Keep the libraries' notices out of the way of what a command says, unless they are asked for.

    They read these settings when they are imported.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # PEFT asks Transformers for a name that it is going to drop.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
