"""Import a command's module without the libraries it works with, for its help page alone.

A signature needs none of them, and importing them takes seconds. While a module is imported here,
every name of theirs is an empty class; afterwards nothing that was imported stays.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HEAVY = (
    "accelerate", "datasets", "huggingface_hub", "httpx2", "jinja2", "matplotlib", "numpy", "peft",
    "PIL", "py3langid", "pyarrow", "pydantic", "regex", "safetensors", "scipy", "sentencex",
    "tokenizers", "torch", "tqdm", "transformers",
)  # fmt: skip
OWN = "veridical."


class _Nothing(type):
    """The type of what stands in for a class, a function or a constant: it allows what any may."""

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing(name)

    def __call__(cls, *given: object, **named: object) -> object:
        # As a decorator it gives back what is decorated.
        return given[0] if len(given) == 1 and callable(given[0]) and not named else _nothing("it")

    def __getitem__(cls, key: Any) -> Any:
        return cls


def _nothing(name: str) -> object:
    return _Nothing(name, (), {})


class _Finder(Loader):
    """Gives an empty module for every library in `HEAVY` and all of its parts."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in HEAVY:
            return None
        return ModuleSpec(name, _Finder(), is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make an empty module."""
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


class _EmptyModule(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing(name)


@contextmanager
def without_libraries() -> Iterator[None]:
    """Let our modules, imported within, see empty libraries; afterwards they are forgotten."""
    known = set(sys.modules)
    if any(name in known for name in HEAVY):  # what is here costs nothing
        yield
        return
    finder: Any = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - known:
            if name.startswith(OWN) or name.partition(".")[0] in HEAVY:
                _forget(name)


def _forget(name: str) -> None:
    """Take a module away, from the package it is in too: `from package import it` asks that."""
    module = sys.modules.pop(name)
    package, _, own = name.rpartition(".")
    beside = vars(sys.modules[package]) if package in sys.modules else {}
    if beside.get(own) is module:
        del beside[own]
