"""What `--dry-run` says at its end: the command that does what was shown."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping

from veridical.runtime.options import by_option

_FILE = "FILE"


def command_for(source: str, given: Mapping[str, object], command: Callable[..., None]) -> str:
    """The command that imports a set as `--dry-run` has shown it.

    Args:
        source: as it was given.
        given: every parameter by its name.
        command: whose they are.
    """
    words = ["veridical", "data", "import", source]
    parameters = inspect.signature(command).parameters
    defaults = by_option({name: one.default for name, one in parameters.items()})
    for name, value in by_option(given).items():
        if value is None or value == defaults[name] or name in ("source", "out", "dry_run"):
            continue
        words.append(f"--{name.rstrip('_').replace('_', '-')}")
        if isinstance(value, Mapping):
            words += [f"{ours}={theirs}" for ours, theirs in value.items()]
        else:
            words += map(str, value if isinstance(value, list) else [value])
    ending = "jsonl" if given.get("out") is None and _refers(given) else "parquet"
    out = given["out"] if given.get("out") is not None else f"{_FILE}.{ending}"
    return shlex.join([*words, "--out", str(out)])


def _refers(given: Mapping[str, object]) -> bool:
    return by_option(given).get("images") == "refer"
