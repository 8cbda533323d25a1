"""What tests of evaluations share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest


@pytest.fixture(autouse=True)
def _hub_models(commit: Callable[[str, str, Mapping[str, bytes]], None]) -> None:
    """Names of models that stubs stand for have a commit each."""
    for name in ("a/model", "another/model"):
        commit(name, name.replace("/", "-"), {"config.json": name.encode()})
