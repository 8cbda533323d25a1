"""What `import veridical` offers, and that it costs nothing until it is used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import veridical
from veridical.cli.stand_ins import HEAVY


@pytest.mark.parametrize("name", veridical.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(veridical, name)
    assert name == "__version__" or (inspect.getdoc(found) or "").strip()
    assert name == "__version__" or found.__name__ == name


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(inspect.getfile(veridical)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    named = {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert named == {*veridical.__all__} - {"__version__"}


def test_no_library_is_imported_before_a_name_is_used() -> None:
    code = "import sys, veridical; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint({*HEAVY, "yaml", "jsonargparse"})


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'train_nothing'"):
        veridical.train_nothing  # noqa: B018
