"""Local model code: a Python file that a command is told to import before it loads a model.

Transformers finds a model class that is not its own once the file that defines it has registered it
(`AutoConfig.register`, `AutoModel.register`). Which files were imported stands in every `run.json`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from veridical.runtime.errors import UserError

OPTION = "--import"

_imported: dict[str, Path] = {}


def imported_files() -> dict[str, Path]:
    """The files that were imported so far, as inputs of a run: `import/NAME.py` to the path."""
    return {f"import/{path.name}": path for path in _imported.values()}


def brings_code(name: str) -> str:
    """The error for a checkpoint whose classes are Python files of its own."""
    return (
        f"{name} brings Python code of its own (auto_map), which is never run unread: your "
        "Transformers has no class for it.\n"
        f"Read its files, then name one that registers its classes: {OPTION} FILE.py."
    )


def take_imports(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Take `--import FILE.py`, which every command has, out of a command's words.

    Returns:
        The other words, and the files in their order.

    Raises:
        UserError: no file follows.
    """
    words: list[str] = []
    files: list[Path] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, word, *rest], files
        name, equals, value = word.partition("=")
        if name != OPTION:
            words.append(word)
        elif equals or (rest and not rest[0].startswith("--")):
            files.append(Path(value if equals else rest.pop(0)))
        else:
            raise UserError(f"{OPTION} needs the Python file to import.")
    return words, files


def import_file(path: Path) -> None:
    """Run a Python file as the module of its name; a second time does nothing.

    Raises:
        UserError: there is no such Python file, or its name is a module's that is here already.
    """
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"{OPTION} {path} is not a Python file (NAME.py).")
    path = path.resolve()
    name = path.stem
    if name in sys.modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "").resolve() == path:
            _imported[name] = path
            return
        raise UserError(f"{OPTION} {path} would hide the module {name!r}; rename the file.")
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise UserError(f"{OPTION} {path} can't be imported.")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _imported[name] = path
