"""A checkout that is imported without being installed works to the end of every command."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

import veridical
from veridical.cli.dispatch import main
from veridical.runtime.versions import own_version, version_of

SOURCE = Path(veridical.__file__).parent


def test_a_checkout_without_installation_has_a_version_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = metadata.version

    def version(package: str) -> str:
        if package == "veridical":
            raise metadata.PackageNotFoundError(package)
        return installed(package)

    monkeypatch.setattr(metadata, "version", version)
    assert own_version() == "from source" == veridical.__version__
    assert version_of("torch") == installed("torch")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "veridical from source\n"


def test_no_other_place_asks_for_versions_by_itself() -> None:
    asking = [
        str(path.relative_to(SOURCE))
        for path in sorted(SOURCE.rglob("*.py"))
        if "metadata.version(" in path.read_text(encoding="utf-8")
    ]
    assert asking == ["runtime/versions.py"]
