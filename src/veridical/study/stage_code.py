"""Which code makes a command's result: the modules that it can reach by imports, as one hash."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import veridical
from veridical.cli.commands import COMMANDS
from veridical.eval.benchmarks import BENCHMARKS

ROOT = Path(veridical.__file__).parent.parent
PACKAGE = "veridical"
BY_NAME = ("eval", "eval compare")
"""Commands that import benchmarks by their names."""
TEXTS = (".txt", ".json", ".yaml", ".tsv", ".csv", ".md")


def code_hash(command: str) -> str:
    """The hash of a command's module and of all of this package that it imports, at any depth.

    A change elsewhere (another stage, the pages, the command line) leaves it as it is. A change of
    a comment counts, as nothing tells it from one of the result.
    """
    paths = {path for name in reached(command) if (path := _path(name)) is not None}
    folders = {path.parent for path in paths} - {ROOT / PACKAGE}
    paths |= {path for folder in folders for path in _texts_beside(folder)}
    text = "".join(f"{path.relative_to(ROOT)} {_digest(path)}\n" for path in sorted(paths))
    return sha256(text.encode()).hexdigest()[:16]


def reached(command: str) -> frozenset[str]:
    """A command's module and all of this package that it imports, at any depth."""
    found: set[str] = set()
    waiting = [COMMANDS[command].function.partition(":")[0]]
    if command in BY_NAME:
        waiting += [line.module for line in BENCHMARKS.values()]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += imported(name)
    return frozenset(found)


def _texts_beside(folder: Path) -> Iterator[Path]:
    """Texts that modules read from their own folder or those in it: prompts, word lists."""
    return (path for path in folder.rglob("*") if path.suffix in TEXTS)


@functools.cache
def imported(name: str) -> tuple[str, ...]:
    """The modules of this package that a module imports, anywhere in it, and its own packages."""
    path = _path(name)
    if path is None:
        return ()
    above = [name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)]
    tree = ast.parse(path.read_bytes())
    wanted = {word for node in ast.walk(tree) for word in _named(node)}
    # The package's own list of what it offers, imported lazily, leads everywhere.
    return tuple(sorted(word for word in {*above, *wanted} - {PACKAGE} if _path(word) is not None))


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def _path(name: str) -> Path | None:
    """The file of a module of this package; None for any other."""
    if name.partition(".")[0] != PACKAGE:
        return None
    place = ROOT.joinpath(*name.split("."))
    found = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in found if path.is_file()), None)


@functools.cache
def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
